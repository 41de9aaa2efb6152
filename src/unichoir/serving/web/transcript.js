// The final lines of the transcript, and how they are displayed.

const UNSURE = 0.5; // words with lower confidence are marked

export function clock(seconds) {
  const whole = Math.floor(seconds);
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const pad = (value) => String(value).padStart(2, "0");
  return h > 0 ? `${h}:${pad(m)}:${pad(s)}` : `${m}:${pad(s)}`;
}

function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function wordElement({ word, start, end, confidence }) {
  const known = typeof confidence === "number";
  const unsure = known && confidence < UNSURE;
  const percent = known ? `${Math.round(confidence * 100)} %` : "";
  const times = `${start.toFixed(2)}–${end.toFixed(2)}`;
  // The style sheet displays data-times and data-confidence on request; copying a line therefore copies only its words.
  return element(
    "span",
    {
      class: unsure ? "word low" : "word",
      title: `${times} s${known ? `, confidence ${percent}` : ""}${unsure ? " (unsure)" : ""}`,
      "data-times": times,
      "data-confidence": unsure ? `${percent} unsure` : percent,
    },
    word,
  );
}

function lineElement(recording, line, first) {
  const text = element("p", { class: "text", lang: "en" });
  if (line.words.length > 0) {
    line.words.forEach((word, i) => text.append(i > 0 ? " " : "", wordElement(word)));
  } else {
    text.append(line.text);
  }
  const item = element("li", {}, element("time", { datetime: `PT${line.start.toFixed(2)}S` }, clock(line.start)), text);
  if (first) {
    const time = recording.started.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    item.prepend(element("p", { class: "source" }, `${recording.source}, ${time}`));
  }
  if (line.unfinished) item.append(element("p", { class: "note" }, "Incomplete: the connection ended here."));
  return item;
}

export class Transcript {
  #list;
  #onchange;
  recordings = []; // recordings with at least one line

  constructor(list, onchange) {
    this.#list = list;
    this.#onchange = onchange;
  }

  get empty() {
    return this.recordings.length === 0;
  }

  /** Returns a recording to add lines to; it appears with its first line. */
  begin(source) {
    return { source, started: new Date(), duration: 0, lines: [] };
  }

  add(recording, line) {
    const first = recording.lines.length === 0;
    if (first) this.recordings.push(recording);
    recording.lines.push(line);
    recording.duration = Math.max(recording.duration, line.end);
    this.#list.append(lineElement(recording, line, first));
    this.#onchange();
  }

  /** Clears the transcript; returns a function that restores it. */
  clear() {
    const cleared = this.recordings;
    this.#show([]);
    return () => this.#show([...cleared, ...this.recordings]);
  }

  #show(recordings) {
    this.recordings = recordings;
    const items = recordings.flatMap((recording) =>
      recording.lines.map((line, i) => lineElement(recording, line, i === 0)),
    );
    this.#list.replaceChildren(...items);
    this.#onchange();
  }
}
