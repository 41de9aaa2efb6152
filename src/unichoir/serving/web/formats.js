// The transcript as text, SRT, VTT and JSON.
//
// A recording is {source, started: Date, duration, lines}, a line {start, end, text, words}, a word {word, start, end,
// confidence}; times are in seconds from the start of the recording. Subtitles place the recordings one after another
// on a single time line.

const PAUSE = 0.8; // s between two words of a cue, at most
const LONGEST = 7; // s of a cue
const WIDEST = 84; // characters of a cue: two rows of 42
const SHORTEST = 0.7; // s of a cue

const lineText = (recording) => recording.lines.map(({ text }) => text).join("\n");

export const toText = (recordings) => recordings.map(lineText).join("\n\n") + "\n";

/** Returns the words of a line with times. If the server sent none, the words are spread evenly over the line. */
function timedWords({ start, end, text, words }) {
  if (words.length > 0) return words;
  const parts = text.split(/\s+/);
  const step = Math.max(0, end - start) / parts.length;
  return parts.map((word, i) => ({ word, start: start + i * step, end: start + (i + 1) * step }));
}

export function cues(recordings) {
  const result = [];
  let offset = 0;
  for (const { lines, duration } of recordings) {
    for (const line of lines) {
      let cue = null;
      for (const { word, ...times } of timedWords(line)) {
        const start = offset + times.start;
        const end = offset + times.end;
        const text = cue ? `${cue.text} ${word}` : word;
        if (cue && start - cue.end <= PAUSE && end - cue.start <= LONGEST && text.length <= WIDEST) {
          cue.text = text;
          cue.end = Math.max(cue.end, end);
        } else {
          cue = { start, end, text: word };
          result.push(cue);
        }
      }
    }
    offset += duration;
  }
  result.forEach((cue, i) => {
    // Long enough to read, but never overlapping the next cue.
    const limit = Math.max(result[i + 1]?.start ?? Infinity, cue.start + 0.001);
    cue.end = Math.min(Math.max(cue.end, cue.start + SHORTEST), limit);
  });
  return result;
}

function clock(seconds, separator) {
  const ms = Math.round(seconds * 1000);
  const pad = (value, width = 2) => String(value).padStart(width, "0");
  const [h, m, s] = [Math.floor(ms / 3_600_000), Math.floor(ms / 60_000) % 60, Math.floor(ms / 1000) % 60];
  return `${pad(h)}:${pad(m)}:${pad(s)}${separator}${pad(ms % 1000, 3)}`;
}

/** Breaks a long text into two rows of about equal length. */
function rows(text) {
  if (text.length <= WIDEST / 2) return text;
  const spaces = [...text.matchAll(/ /g)].map(({ index }) => index);
  if (spaces.length === 0) return text;
  const middle = text.length / 2;
  const at = spaces.reduce((best, index) => (Math.abs(index - middle) < Math.abs(best - middle) ? index : best));
  return `${text.slice(0, at)}\n${text.slice(at + 1)}`;
}

export const toSrt = (recordings) =>
  cues(recordings)
    .map(({ start, end, text }, i) => `${i + 1}\n${clock(start, ",")} --> ${clock(end, ",")}\n${rows(text)}\n`)
    .join("\n");

export function toVtt(recordings) {
  const escape = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  const body = cues(recordings).map(
    ({ start, end, text }) => `${clock(start, ".")} --> ${clock(end, ".")}\n${escape(rows(text))}\n`,
  );
  return ["WEBVTT\n", ...body].join("\n");
}

export function toJson(recordings, model) {
  let offset = 0;
  const entries = recordings.map((recording) => {
    const { source, started, duration, lines } = recording;
    const entry = { source, started: started.toISOString(), duration, offset, text: lineText(recording), lines };
    offset += duration;
    return entry;
  });
  return JSON.stringify({ model, recordings: entries }, null, 2) + "\n";
}
