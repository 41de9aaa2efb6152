// Runs on the audio thread: mixes to mono, resamples, converts to int16, and posts blocks of 100 ms.

const BLOCK_SECONDS = 0.1;
const ZERO_CROSSINGS = 24; // of the sinc on each side: a steep filter at low cost

const gcd = (a, b) => (b === 0 ? a : gcd(b, a % b));

/** Streaming resampler: a windowed sinc, one precomputed filter for each position between two input samples. */
class Resampler {
  constructor(from, to) {
    const divisor = gcd(from, to);
    this.up = to / divisor;
    this.down = from / divisor;
    const cutoff = Math.min(1, to / from) * 0.94; // a little below Nyquist, as no filter is infinitely steep
    this.half = Math.ceil(ZERO_CROSSINGS / cutoff);
    this.filters = Array.from({ length: this.up }, (_, phase) => this.filter(phase / this.up, cutoff));
    this.history = new Float32Array(this.half - 1); // silence before the first sample
    this.skip = 0; // samples from the start of `history` to the next output's window
    this.phase = 0;
  }

  filter(fraction, cutoff) {
    const taps = Float32Array.from({ length: 2 * this.half }, (_, i) => {
      const x = i - this.half + 1 - fraction;
      const sinc = x === 0 ? 1 : Math.sin(Math.PI * cutoff * x) / (Math.PI * cutoff * x);
      const window = Math.cos((Math.PI / 2) * Math.min(1, Math.abs(x) / this.half)) ** 2;
      return sinc * window;
    });
    const sum = taps.reduce((a, b) => a + b, 0);
    return taps.map((tap) => tap / sum);
  }

  push(samples) {
    const input = new Float32Array(this.history.length + samples.length);
    input.set(this.history);
    input.set(samples, this.history.length);
    const output = [];
    let start = this.skip;
    while (start + 2 * this.half <= input.length) {
      const taps = this.filters[this.phase];
      let sum = 0;
      for (let i = 0; i < taps.length; i++) sum += taps[i] * input[start + i];
      output.push(sum);
      this.phase += this.down;
      start += Math.floor(this.phase / this.up);
      this.phase %= this.up;
    }
    const kept = Math.min(start, input.length);
    this.history = input.slice(kept);
    this.skip = start - kept;
    return output;
  }

  /** Returns the samples that still wait for later input. */
  flush() {
    return this.push(new Float32Array(this.half));
  }
}

class Recorder extends AudioWorkletProcessor {
  constructor({ processorOptions: { rate } }) {
    super();
    this.resampler = rate === sampleRate ? null : new Resampler(sampleRate, rate);
    this.block = new Int16Array(Math.round(rate * BLOCK_SECONDS));
    this.filled = 0;
    this.energy = 0;
    this.ended = false;
    this.port.onmessage = () => this.end();
  }

  process([channels]) {
    if (this.ended) return false;
    if (channels.length > 0) {
      let mono = channels[0];
      if (channels.length > 1) {
        mono = mono.map((_, i) => channels.reduce((sum, channel) => sum + channel[i], 0) / channels.length);
      }
      this.write(this.resampler ? this.resampler.push(mono) : mono);
    }
    return true;
  }

  write(samples) {
    for (const sample of samples) {
      this.block[this.filled++] = Math.max(-32768, Math.min(32767, Math.round(sample * 32768)));
      this.energy += sample * sample;
      if (this.filled === this.block.length) this.post();
    }
  }

  post(last = false) {
    const pcm = this.block.slice(0, this.filled);
    const level = Math.sqrt(this.energy / Math.max(1, this.filled));
    this.port.postMessage({ pcm, level, last }, [pcm.buffer]);
    this.filled = 0;
    this.energy = 0;
  }

  end() {
    if (this.ended) return;
    if (this.resampler) this.write(this.resampler.flush());
    this.ended = true;
    this.post(true);
  }
}

registerProcessor("recorder", Recorder);
