"""Endpoints, from the OpenAPI description that the server gives."""

from typing import Any

from docs.generate.tables import GENERATED, table

from unichoir.serving.app import make_api

INTRODUCTION = f"""# HTTP

`unichoir serve` describes these endpoints at `/openapi.json`, too. [Serving](../deploy/serving.md) shows how to use
them. [WebSockets](websocket.md) and [error codes](errors.md#http) have pages of their own. If the server has an API
key, requests below `/v1/` need the header `Authorization: Bearer KEY`.

{GENERATED}
"""


def schema_type(schema: dict[str, Any]) -> str:
    """Return a JSON type in words."""
    if "enum" in schema:
        return ", ".join(f"`{each}`" for each in schema["enum"])
    if schema.get("type") == "array":
        return f"list: {schema_type(schema['items'])}"
    return "file" if schema.get("format") == "binary" else str(schema.get("type", ""))


def properties(schema: dict[str, Any], what: str) -> list[str]:
    """Return a table of the properties of an object."""
    required = schema.get("required", [])
    rows = [
        [
            f"`{name}`",
            schema_type(each),
            "required" if name in required else f"`{each['default']}`" if "default" in each else "",
            each.get("description", ""),
        ]
        for name, each in schema["properties"].items()
    ]
    return table([what, "type", "default", "meaning"], rows)


def operation(method: str, path: str, described: dict[str, Any]) -> list[str]:
    """Return the lines about an endpoint."""
    lines = [f"## {method.upper()} {path}", "", f"{described['summary']}. {described.get('description', '')}", ""]
    for body in described.get("requestBody", {}).get("content", {}).values():
        lines += properties(body["schema"], "form field")
    rows, nested = [], []
    for status, response in described["responses"].items():
        content = response.get("content", {})
        text = "Success." if response["description"] == "Successful Response" else response["description"]
        rows.append([status, ", ".join(f"`{each}`" for each in content), text])
        schema = content.get("application/json", {}).get("schema", {})
        if "properties" in schema and status == "200":
            nested = properties(schema, "key of the JSON")
    return [*lines, *table(["status", "content", "meaning"], rows), *nested]


def page() -> str:
    """Return the whole page."""
    lines = [INTRODUCTION]
    for path, methods in make_api().openapi()["paths"].items():
        for method, described in methods.items():
            lines += operation(method, path, described)
    return "\n".join(lines)
