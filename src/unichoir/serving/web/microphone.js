// The microphone, as blocks of int16 PCM.

import { Problem } from "./problems.js";

const NAMES = {
  NotAllowedError: "denied",
  SecurityError: "denied",
  NotFoundError: "missing",
  OverconstrainedError: "missing",
  NotReadableError: "in_use",
  AbortError: "in_use",
};

// Audio from just before "Stop" is still on its way from the microphone.
const TAIL_MS = 300;
const FLUSH_MS = 1000;

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export class Microphone {
  #stream;
  #context;
  #node;
  #flushed;

  /** Opens the microphone. `onblock(pcm, level)` gets blocks of 100 ms; `onended` is called if the device goes away. */
  static async open(rate, { onblock, onended }) {
    if (!window.isSecureContext) throw new Problem("insecure");
    if (!navigator.mediaDevices?.getUserMedia || !window.AudioWorkletNode) throw new Problem("unsupported");
    const microphone = new Microphone();
    try {
      // Filters for calls would remove parts of the speech. Gain control stays on: it helps quiet microphones.
      microphone.#stream = await navigator.mediaDevices.getUserMedia({
        audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: true },
      });
      await microphone.#connect(rate, onblock, onended);
    } catch (error) {
      await microphone.close();
      if (error instanceof Problem) throw error;
      console.warn("microphone:", error);
      throw new Problem(NAMES[error.name] ?? "unsupported");
    }
    return microphone;
  }

  async #connect(rate, onblock, onended) {
    const source = this.#source(rate);
    await this.#context.audioWorklet.addModule(new URL("worklet.js", import.meta.url)).catch(() => {
      throw new Problem("unreachable"); // the worklet also comes from the server
    });
    this.#node = new AudioWorkletNode(this.#context, "recorder", { numberOfOutputs: 0, processorOptions: { rate } });
    this.#flushed = new Promise((resolve) => {
      this.#node.port.onmessage = ({ data: { pcm, level, last } }) => {
        if (pcm.length > 0) onblock(pcm, level);
        if (last) resolve();
      };
    });
    for (const track of this.#stream.getAudioTracks()) track.addEventListener("ended", onended);
    source.connect(this.#node);
    await this.#context.resume();
  }

  #source(rate) {
    // The browser resamples best. Firefox refuses a microphone in a context with another rate; the worklet then
    // resamples.
    try {
      this.#context = new AudioContext({ sampleRate: rate });
      return this.#context.createMediaStreamSource(this.#stream);
    } catch {
      this.#context?.close();
      this.#context = new AudioContext();
      return this.#context.createMediaStreamSource(this.#stream);
    }
  }

  /** Waits for the audio recorded so far; when it returns, `onblock` has received the last block. */
  async finish() {
    await sleep(TAIL_MS);
    this.#node.port.postMessage("end");
    await Promise.race([this.#flushed, sleep(FLUSH_MS)]);
    await this.close();
  }

  async close() {
    if (this.#node) this.#node.port.onmessage = null;
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    if (this.#context && this.#context.state !== "closed") await this.#context.close();
  }
}
