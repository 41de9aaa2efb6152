"""What is where."""

from docs.generate.tables import GENERATED

PAGES = {
    "cli.md": "Command line: every command and option.",
    "python.md": "Python: the public classes and functions.",
    "options.md": "Options: recognition and the limits of the server, with their names everywhere.",
    "configuration.md": "Configuration: every key of a training's YAML file.",
    "http.md": "HTTP: the endpoints of the server.",
    "websocket.md": "WebSockets: WeNet's protocol and the realtime API.",
    "metrics.md": "Metrics: what the server has for Prometheus.",
    "errors.md": "Errors: exceptions, exit codes, HTTP and WebSocket codes.",
}


def page() -> str:
    """Return the whole page."""
    lines = [f"- [{text.partition(':')[0]}]({name}):{text.partition(':')[2]}" for name, text in PAGES.items()]
    introduction = f"These pages are complete rather than short. {GENERATED.replace('This page is', 'They are')}"
    return "\n".join(["# Reference", "", introduction, "", *lines, ""])
