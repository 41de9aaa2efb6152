// Error messages for the user, with advice on what to do.

const TEXTS = {
  denied:
    "The microphone is blocked. Allow it for this page in the address bar or in the system's privacy settings, and " +
    "start again.",
  missing: "No microphone was found. Connect one and start again, or choose a recording.",
  in_use: "The microphone is not available. Another program may be using it; close that program, then start again.",
  unplugged: "The microphone was disconnected. The transcript so far is kept. Connect it and start again.",
  insecure:
    "Browsers allow the microphone on secure pages only. Open this page over https, or on the server itself at " +
    "http://localhost. You can still transcribe recordings here.",
  unsupported:
    "This browser cannot record audio. Use a current Firefox, Chrome, Edge or Safari, or choose a recording.",
  unreachable: "The server cannot be reached. Check your connection and that the server is running, then try again.",
  busy: "The server is busy and accepts no more listeners at the moment. Try again in a minute.",
  draining: "The server is shutting down and may restart. Try again in a minute.",
  key_needed: "This server requires a key. Enter it above.",
  key_wrong: "The server did not accept the key. Check it and enter it again.",
  key_unusable:
    "The key contains characters that browsers cannot send for live speech. You can transcribe recordings with it. " +
    "For the microphone, ask for a key that consists of letters, digits, “-”, “_” and “.”.",
  forbidden:
    "The server does not accept requests from this page's address. Open the page at the server's own address, or ask " +
    "the server's administrator to allow this one.",
  lost: "The connection was lost. The transcript so far is kept.",
  drained:
    "The server is shutting down and may restart. The transcript so far is kept. Start again in a minute.",
  silent: "The server did not respond in time. The transcript so far is kept.",
  upload_lost:
    "The connection was lost during the upload. If this happens again, the recording may be larger than the server " +
    "allows.",
  empty_file: "The file is empty. Choose another one.",
  file_lost: "The file cannot be read. It may have been moved or changed, or it may be a folder. Choose it again.",
  cancelled: "Cancelled.",
};

// Advice to append to the server's own message.
const ADVICE = {
  audio_unreadable: "Choose a WAV, FLAC, Ogg or MP3 file.",
  file_too_large: "Split the recording, or save it as FLAC, Ogg or MP3, which need less space.",
  audio_too_long: "Split the recording into shorter ones.",
  rate_limit_exceeded: "Too many recordings are waiting.",
  session_expired: "The transcript so far is kept.",
  idle_timeout: "The transcript so far is kept.",
  too_slow: "The transcript so far is kept.",
};

/** Returns a message of the server as a sentence with readable numbers. */
function sentence(message) {
  const text = message.replace(/\b(\d{7,}) bytes/g, (_, bytes) => `${Math.round(bytes / 2 ** 20)} MiB`);
  return /[.!?]$/.test(text) ? text : `${text}.`;
}

export class Problem extends Error {
  /** A problem detected by the page; `code` is a key of TEXTS. */
  constructor(code, message = TEXTS[code]) {
    super(message);
    this.code = code;
  }

  /** A problem reported by the server: the body of an HTTP error, or a realtime error event. */
  static fromServer(error, { status = 0, retryAfter = null, hasKey = false } = {}) {
    if (status === 401) return new Problem(hasKey ? "key_wrong" : "key_needed");
    if (status === 403) return new Problem("forbidden");
    if (error?.code === "server_draining") return new Problem("draining");
    if (!error?.message) {
      // Not a response of unichoir's server, but of a proxy in between.
      if (status === 413) return new Problem("file_too_large", `The recording is too large. ${ADVICE.file_too_large}`);
      if (status === 429) return new Problem("busy");
      const answer = status > 0 ? ` (Status ${status}.)` : "";
      return new Problem("unreachable", TEXTS.unreachable + answer);
    }
    const parts = [sentence(error.message), ADVICE[error.code]];
    if (status === 429) parts.push(retryAfter > 0 ? `Try again in ${retryAfter} seconds.` : "Try again in a minute.");
    return new Problem(error.code ?? "server_error", parts.filter(Boolean).join(" "));
  }
}
