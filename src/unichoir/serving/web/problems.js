// What can go wrong, in words a person understands, with what to do about it.

const TEXTS = {
  denied:
    "The browser may not use the microphone. Allow it for this page (in the address bar, or in the system's privacy " +
    "settings), then start again.",
  missing: "No microphone was found. Connect one and start again, or choose a recording.",
  in_use: "The microphone cannot be read; another program may be using it. Close that program, then start again.",
  unplugged:
    "The microphone was disconnected. All words up to here are kept. Connect it and start again.",
  insecure:
    "Browsers give the microphone to secure pages only. Open this page over https, or on the server itself as " +
    "http://localhost. Recordings can be transcribed here all the same.",
  unsupported:
    "This browser cannot record sound on a page. Use a current Firefox, Chrome, Edge or Safari, or choose a recording.",
  unreachable: "The server cannot be reached. Check your connection and that the server is running, then try again.",
  busy: "The server is busy: it takes no further listeners at the moment. Try again in a minute.",
  draining: "The server is shutting down, perhaps to be restarted. Try again in a minute.",
  key_needed: "This server needs a key. Enter it above.",
  key_wrong: "The server did not accept the key. Check it and enter it again.",
  key_unusable:
    "This key has characters that a browser cannot send for live speech. Recordings can be transcribed with it; for " +
    "listening ask for a key of letters, digits, “-”, “_” and “.”.",
  forbidden:
    "The server does not accept requests from this page's address. Open the page at the address that the server " +
    "gives, or ask whoever runs it to allow this one.",
  lost: "The connection was lost. All words up to here are kept.",
  drained:
    "The server is shutting down, perhaps to be restarted. All words up to here are kept; start again in a minute.",
  silent: "The server did not answer in time. All words up to here are kept.",
  upload_lost:
    "The connection was lost during the transfer. If it happens again, the recording may be larger than the server " +
    "allows.",
  empty_file: "The file is empty. Choose another one.",
  file_lost: "The file cannot be read; it may have been moved or changed, or be a folder. Choose it again.",
  cancelled: "Cancelled.",
};

// The advice that follows the server's own message.
const ADVICE = {
  audio_unreadable: "Choose a WAV, FLAC, Ogg or MP3 file.",
  file_too_large: "Split the recording, or save it as FLAC, Ogg or MP3, which are smaller.",
  audio_too_long: "Split the recording into shorter ones.",
  rate_limit_exceeded: "Too many recordings are waiting.",
  session_expired: "All words up to here are kept.",
  idle_timeout: "All words up to here are kept.",
  too_slow: "All words up to here are kept.",
};

/** A message of the server's as a sentence with numbers that can be read. */
function sentence(message) {
  const text = message.replace(/\b(\d{7,}) bytes/g, (_, bytes) => `${Math.round(bytes / 2 ** 20)} MiB`);
  return /[.!?]$/.test(text) ? text : `${text}.`;
}

export class Problem extends Error {
  /** A problem of the page's own: `code` is a key of TEXTS. */
  constructor(code, message = TEXTS[code]) {
    super(message);
    this.code = code;
  }

  /** What the server said: the body of an HTTP error or a realtime error event. */
  static fromServer(error, { status = 0, retryAfter = null, hasKey = false } = {}) {
    if (status === 401) return new Problem(hasKey ? "key_wrong" : "key_needed");
    if (status === 403) return new Problem("forbidden");
    if (error?.code === "server_draining") return new Problem("draining");
    if (!error?.message) {
      // No answer of our server's: a proxy in between speaks.
      if (status === 413) return new Problem("file_too_large", `The recording is too large. ${ADVICE.file_too_large}`);
      if (status === 429) return new Problem("busy");
      const answer = status > 0 ? ` (It answered ${status}.)` : "";
      return new Problem("unreachable", TEXTS.unreachable + answer);
    }
    const parts = [sentence(error.message), ADVICE[error.code]];
    if (status === 429) parts.push(retryAfter > 0 ? `Try again in ${retryAfter} seconds.` : "Try again in a minute.");
    return new Problem(error.code ?? "server_error", parts.filter(Boolean).join(" "));
  }
}
