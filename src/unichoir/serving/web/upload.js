// Uploads a recording to /v1/audio/transcriptions and receives its words as they are recognised.

import { address, diagnose, headers, key } from "./api.js";
import { Problem } from "./problems.js";

/** Returns a function that takes a growing text and passes its new `data:` events to `onevent`. */
function eventReader(onevent) {
  let read = 0;
  return (text) => {
    for (;;) {
      const boundary = /\r?\n\r?\n/g;
      boundary.lastIndex = read;
      const end = boundary.exec(text);
      if (!end) return;
      const data = text
        .slice(read, end.index)
        .split(/\r?\n/)
        .filter((line) => line.startsWith("data:"))
        .map((line) => line.slice(5).trim())
        .join("\n");
      read = boundary.lastIndex;
      if (data.startsWith("{")) onevent(JSON.parse(data));
    }
  };
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/**
 * Resolves when everything is recognised, with the server's warnings, for example about a truncated recording; rejects
 * with a Problem. `on`: {sent(fraction), recognised(position, duration), line({start, end, text, words})}.
 */
export async function transcribe(file, model, signal, on) {
  if (file.size === 0) throw new Problem("empty_file");
  // A folder or a deleted file fails here; otherwise it would look like a network error.
  await file.slice(0, 1).arrayBuffer().catch(() => {
    throw new Problem("file_lost");
  });
  const form = new FormData();
  form.append("model", model);
  form.append("stream", "true");
  form.append("include[]", "words");
  form.append("file", file, file.name);
  // XMLHttpRequest, because fetch does not report upload progress.
  const request = new XMLHttpRequest();
  request.open("POST", address("v1/audio/transcriptions"));
  for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);

  return new Promise((resolve, reject) => {
    let warnings = null;
    let position = 0;
    const read = eventReader((event) => {
      if (event.type === "transcript.text.delta") {
        const { delta, words = [] } = event;
        const text = delta.trim();
        if (text) {
          on.line({ start: words[0]?.start ?? position, end: words.at(-1)?.end ?? event.position, text, words });
        }
        position = event.position;
        on.recognised(position, event.duration);
      } else if (event.type === "transcript.text.done") {
        warnings = event.warnings ?? [];
      } else if (event.type === "error") {
        reject(Problem.fromServer(event.error));
      }
    });
    signal.addEventListener("abort", () => request.abort());
    request.upload.onprogress = ({ loaded, total }) => on.sent(loaded / total);
    request.upload.onload = () => on.sent(1);
    request.onprogress = () => {
      if (request.status === 200) read(request.responseText);
    };
    request.onload = () => {
      const { status, responseText } = request;
      if (status === 200) {
        read(responseText);
        if (warnings) resolve(warnings);
        else reject(new Problem("lost"));
      } else {
        const retryAfter = Number(request.getResponseHeader("Retry-After"));
        reject(Problem.fromServer(parse(responseText)?.error, { status, retryAfter, hasKey: Boolean(key()) }));
      }
    };
    request.onabort = () => reject(new Problem("cancelled"));
    request.onerror = async () => {
      if (request.status === 200) reject(new Problem("lost"));
      // A server that refuses an upload may close the connection before the browser has read the reason.
      const problem = await diagnose();
      reject(problem.code === "busy" ? new Problem("upload_lost") : problem);
    };
    if (signal.aborted) reject(new Problem("cancelled"));
    else request.send(form);
  });
}
