// The server: its address, its key, and its model.

import { Problem } from "./problems.js";

// The page is at the server's root and this file in web/ below it, so a reverse proxy may add any prefix.
const BASE = new URL("../", import.meta.url);
const KEY = "unichoir-key";

export const address = (path) => new URL(path, BASE);

export function socketAddress(path, parameters) {
  const url = address(path);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  url.search = new URLSearchParams(parameters);
  return url;
}

export const key = () => sessionStorage.getItem(KEY);
export const setKey = (value) => sessionStorage.setItem(KEY, value);
export const forgetKey = () => sessionStorage.removeItem(KEY);

export const headers = () => (key() ? { Authorization: `Bearer ${key()}` } : {});

// Browsers cannot set headers on a WebSocket. The key is sent as a subprotocol, as in OpenAI's clients.
export const subprotocols = () => (key() ? ["realtime", `openai-insecure-api-key.${key()}`] : ["realtime"]);

async function get(path, options) {
  try {
    return await fetch(address(path), { cache: "no-store", signal: AbortSignal.timeout(10_000), ...options });
  } catch {
    throw new Problem("unreachable");
  }
}

/** Returns the id of the server's model. */
export async function fetchModel() {
  const response = await get("v1/models", { headers: headers() });
  const body = await response.json().catch(() => null);
  if (!response.ok) throw Problem.fromServer(body?.error, { status: response.status, hasKey: Boolean(key()) });
  const id = body?.data?.[0]?.id;
  if (!id) throw new Problem("unreachable");
  return id;
}

/** Finds out why a WebSocket did not open. The browser does not tell (1006), so this asks the server. */
export async function diagnose() {
  try {
    const response = await get("readyz");
    const body = await response.json().catch(() => null);
    if (body?.status === "draining") return new Problem("draining");
    if (!body?.status) return Problem.fromServer(null, { status: response.status });
    // Only a POST carries the page's origin, which the server may have refused. This one contains no recording.
    const probe = await get("v1/audio/transcriptions", { method: "POST", headers: headers() });
    if (probe.status === 401 || probe.status === 403) {
      return Problem.fromServer(null, { status: probe.status, hasKey: Boolean(key()) });
    }
    return new Problem("busy");
  } catch (problem) {
    return problem;
  }
}
