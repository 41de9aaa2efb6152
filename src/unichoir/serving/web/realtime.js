// One session of live recognition over the server's /v1/realtime.

import { diagnose, socketAddress, subprotocols } from "./api.js";
import { Problem } from "./problems.js";

const OPEN_MS = 15_000; // timeout for creating the session
const ANSWER_MS = 30_000; // timeout for the server's next message, after "Stop"
const SURE_MS = 300; // wait for stray messages when the session is certainly complete
const UNSURE_MS = 3000; // the same when it may be incomplete
const INPUT = "input_audio_buffer.";
const RESULT = "conversation.item.input_audio_transcription.";

function base64(pcm) {
  // The protocol requires little-endian samples; every machine that runs a browser is little-endian.
  return btoa(String.fromCharCode(...new Uint8Array(pcm.buffer, pcm.byteOffset, pcm.byteLength)));
}

function deferred() {
  const result = {};
  result.promise = new Promise((resolve, reject) => Object.assign(result, { resolve, reject }));
  result.promise.catch(() => {}); // avoids errors about rejections that nobody awaits
  return result;
}

export class Realtime {
  #socket;
  #rate;
  #on;
  #samples = 0;
  #waiting = []; // events from before the session existed
  #items = new Map(); // items that are not completed: id -> {start, stable, partial}
  #fatal = null; // the server's last error, the reason if it now closes the connection
  #finishing = false;
  #answer = null; // the answer to the commit of `finish`: null, "unsure", "sure"
  #numEmpty = 0;
  #timer;
  #opened = deferred();
  #closed = deferred();

  /** `on`: {partial(text), line({start, end, text, words}), notice(problem)}. */
  constructor(model, rate, on) {
    this.#rate = rate;
    this.#on = on;
    try {
      this.#socket = new WebSocket(socketAddress("v1/realtime", { intent: "transcription", model }), subprotocols());
    } catch {
      this.#fail(new Problem("key_unusable"));
      return;
    }
    this.#socket.onmessage = ({ data }) => this.#receive(JSON.parse(data));
    this.#socket.onclose = ({ code }) => this.#close(code);
    this.#wait(OPEN_MS, () => this.#fail(new Problem("silent")));
  }

  /** Resolves when the server listens, rejects with a Problem. */
  get opened() {
    return this.#opened.promise;
  }

  /** Resolves when the session has ended normally, rejects with a Problem. */
  get closed() {
    return this.#closed.promise;
  }

  get seconds() {
    return this.#samples / this.#rate;
  }

  /** Seconds of audio that are not sent yet. */
  get backlog() {
    return (this.#socket.bufferedAmount * 3) / 4 / 2 / this.#rate; // base64, int16
  }

  append(pcm) {
    this.#samples += pcm.length;
    this.#send({ type: `${INPUT}append`, audio: base64(pcm) });
  }

  /** Ends the last item and waits for its words. */
  async finish() {
    this.#finishing = true;
    // An item that the server ends on its own at this moment looks like the answer to the commit. A second commit has
    // nothing left to end; its error shows that the server has processed the first.
    for (let i = 0; i < 2; i++) this.#send({ type: `${INPUT}commit` });
    this.#progress();
    await this.closed;
  }

  close() {
    clearTimeout(this.#timer);
    this.#closed.resolve();
    if (!this.#socket) return;
    this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close(1000);
  }

  /** Returns the partial texts of items that were never completed, as lines. */
  unfinished() {
    return [...this.#items.values()]
      .map(({ start, partial, stable }) => ({ start, end: this.seconds, text: partial ?? stable }))
      .filter(({ text }) => text)
      .map((line) => ({ ...line, words: [], unfinished: true }));
  }

  #send(event) {
    if (this.#waiting) this.#waiting.push(event);
    else if (this.#socket.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(event));
  }

  #receive(event) {
    this.#fatal = null; // an error is the reason for closing only if it comes directly before
    switch (event.type) {
      case "session.created":
        this.#configure();
        break;
      case "session.updated":
        this.#begin();
        break;
      case `${INPUT}speech_started`:
        this.#item(event.item_id).start = event.audio_start_ms / 1000;
        break;
      case `${INPUT}committed`:
        this.#item(event.item_id);
        if (this.#finishing) this.#answer = this.#numEmpty > 0 ? "sure" : "unsure";
        break;
      case `${RESULT}delta`:
        this.#item(event.item_id).stable += event.delta;
        this.#show();
        break;
      case `${RESULT}partial`:
        this.#item(event.item_id).partial = event.transcript;
        this.#show();
        break;
      case `${RESULT}completed`:
        this.#complete(event);
        break;
      case "error":
        this.#error(event.error);
        break;
    }
    this.#progress();
  }

  #configure() {
    const input = { format: { type: "audio/pcm", rate: this.#rate } };
    const include = ["words", "partial"].map((name) => `item.input_audio_transcription.${name}`);
    const session = { type: "transcription", audio: { input }, include };
    this.#socket.send(JSON.stringify({ type: "session.update", session }));
  }

  #begin() {
    if (!this.#waiting) return;
    clearTimeout(this.#timer);
    const waiting = this.#waiting;
    this.#waiting = null;
    waiting.forEach((event) => this.#send(event));
    this.#opened.resolve();
  }

  #item(id) {
    if (!this.#items.has(id)) this.#items.set(id, { start: this.seconds, stable: "", partial: null });
    return this.#items.get(id);
  }

  #show() {
    const texts = [...this.#items.values()].map(({ partial, stable }) => partial ?? stable);
    this.#on.partial(texts.filter(Boolean).join(" "));
  }

  #complete({ item_id: id, transcript, words = [] }) {
    const { start } = this.#item(id);
    this.#items.delete(id);
    this.#show();
    const text = transcript.trim();
    if (!text) return;
    this.#on.line({ start: words[0]?.start ?? start, end: words.at(-1)?.end ?? this.seconds, text, words });
  }

  #error(error) {
    if (error.code === "input_audio_buffer_commit_empty") {
      this.#numEmpty += 1;
      if (this.#numEmpty === 2) this.#answer = "sure"; // even the first had nothing to end
      return;
    }
    this.#fatal = Problem.fromServer(error);
    if (this.#waiting) this.#fail(this.#fatal);
    else this.#on.notice(this.#fatal);
  }

  get #isComplete() {
    return this.#answer !== null && this.#items.size === 0;
  }

  /** After "Stop": closes the session when all results have arrived. */
  #progress() {
    if (!this.#finishing || this.#waiting) return;
    if (this.#isComplete) this.#wait(this.#answer === "sure" ? SURE_MS : UNSURE_MS, () => this.close());
    else this.#wait(ANSWER_MS, () => this.#fail(new Problem("silent")));
  }

  #wait(ms, action) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(action, ms);
  }

  async #close(code) {
    clearTimeout(this.#timer);
    if (this.#isComplete) this.#closed.resolve();
    else if (this.#waiting) this.#fail(this.#fatal ?? (await diagnose()));
    else this.#fail(this.#fatal ?? new Problem(code === 1001 ? "drained" : "lost"));
  }

  #fail(problem) {
    clearTimeout(this.#timer);
    this.#opened.reject(problem);
    this.#closed.reject(problem);
    this.#socket?.close();
  }
}
