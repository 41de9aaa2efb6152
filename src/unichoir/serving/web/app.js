// The page: connects its controls with the microphone, the server and the transcript.

import { fetchModel, forgetKey, setKey } from "./api.js";
import { toJson, toSrt, toText, toVtt } from "./formats.js";
import { listen } from "./listen.js";
import { Problem } from "./problems.js";
import { clock, Transcript } from "./transcript.js";
import { transcribe } from "./upload.js";

const $ = (id) => document.getElementById(id);
const transcript = new Transcript($("lines"), showTranscript);
let model = null;
let activity = null; // the current activity: {kind: "listening" or "uploading", controller, stopping}
let restore = null; // undoes the last "Clear"

// --- status, errors and controls

function say(text) {
  if ($("status").textContent !== text) $("status").textContent = text;
}

function complain(problem, again = null) {
  if (!(problem instanceof Problem)) {
    console.error(problem);
    const advice = "Copy the transcript, then reload the page.";
    problem = new Problem("broken", `Something went wrong on this page (${problem.message}). ${advice}`);
  }
  if (problem.code === "model_not_found") model = null; // the server may have been restarted with another model
  if (problem.code === "key_needed" || problem.code === "key_wrong") askForKey();
  $("error").querySelector("p").textContent = problem.message;
  $("error").hidden = false;
  requestAnimationFrame(() => $("error").scrollIntoView({ block: "nearest" }));
  $("again").hidden = !again;
  $("again").onclick = () => {
    $("error").hidden = true;
    again();
  };
}

function showTranscript() {
  const page = document.documentElement;
  const atEnd = window.innerHeight + window.scrollY > page.scrollHeight - 160;
  $("empty").hidden = !transcript.empty;
  $("actions").hidden = transcript.empty;
  $("legend").hidden = !$("lines").querySelector(".low");
  if (atEnd && activity?.kind === "listening") window.scrollTo({ top: page.scrollHeight });
}

function showActivity() {
  const kind = activity?.kind;
  const hadFocus = document.activeElement;
  document.body.dataset.activity = kind ?? "none";
  $("listen").setAttribute("aria-pressed", String(kind === "listening"));
  const label = kind !== "listening" ? "Start listening" : activity.stopping ? "Finishing…" : "Stop";
  $("listen").querySelector(".label").textContent = label;
  $("listen").disabled = kind === "uploading";
  $("file").disabled = Boolean(kind);
  $("clear").disabled = $("undo").disabled = Boolean(kind);
  $("upload").hidden = kind !== "uploading";
  // Keyboard users keep the focus on the relevant control.
  if (hadFocus === $("file") && kind) $("cancel").focus();
  if (hadFocus === $("cancel") && !kind) $("file").focus();
}

function showLevel(level) {
  // Maps -60 dB to 0 dB onto 0 to 100.
  const percent = Math.round(Math.max(0, Math.min(100, 100 + (20 * Math.log10(level + 1e-6)) / 0.6)));
  $("level").style.setProperty("--level", percent / 100);
  $("level").setAttribute("aria-valuenow", percent);
  const words = percent < 15 ? "silent" : percent < 40 ? "quiet" : percent < 90 ? "good" : "too loud";
  $("level").setAttribute("aria-valuetext", activity ? words : "off");
}

// --- the server: its model and its key

async function findModel() {
  if (model) return model;
  model = await fetchModel();
  $("model").textContent = model;
  $("login").hidden = true;
  return model;
}

function askForKey() {
  model = null; // fetched again with the new key
  $("model").textContent = "unknown";
  $("login").hidden = false;
  $("key").focus();
}

async function useKey(event) {
  event.preventDefault();
  setKey($("key").value.trim());
  $("error").hidden = true;
  try {
    await findModel();
    $("key").value = "";
    say("Key accepted. Ready.");
    $("listen").focus();
  } catch (problem) {
    forgetKey();
    complain(problem);
  }
}

// --- activities: one at a time

function stop() {
  activity.stopping = true;
  activity.controller.abort();
  showActivity();
}

/** Runs `work(stop: AbortSignal)` as the page's activity. */
async function run(kind, again, work) {
  if (activity) return;
  const controller = new AbortController();
  activity = { kind, controller, stopping: false };
  $("error").hidden = true;
  $("undo").hidden = true;
  showActivity();
  try {
    await findModel();
    await work(controller.signal);
  } catch (problem) {
    say(transcript.empty ? "Stopped." : "Stopped. The transcript so far is kept.");
    if (problem.code !== "cancelled") complain(problem, again);
  } finally {
    activity = null;
    showActivity();
  }
}

function startListening() {
  const recording = transcript.begin("Microphone");
  return run("listening", startListening, async (stop) => {
    try {
      await listen(model, stop, {
        status: say,
        level: showLevel,
        partial: (text) => ($("partial").textContent = text),
        line: (line) => transcript.add(recording, line),
        notice: complain,
        duration: (seconds) => (recording.duration = Math.max(recording.duration, seconds)),
      });
      say(recording.lines.length > 0 ? "Stopped." : "Stopped. No words were recognised.");
    } finally {
      showLevel(0);
      $("partial").textContent = "";
    }
  });
}

function upload(files) {
  if (files.length === 0) return;
  run("uploading", null, async (stop) => {
    for (const file of files) {
      const recording = transcript.begin(file.name);
      const bar = $("upload-progress");
      const progress = (value, text) => {
        if (value === null) bar.removeAttribute("value");
        else bar.value = value;
        $("upload-detail").textContent = text;
      };
      $("upload-name").textContent = file.name;
      say(`Uploading ${file.name}.`);
      progress(0, "uploading");
      const warnings = await transcribe(file, model, stop, {
        sent: (fraction) => {
          if (fraction < 1) return progress(fraction, `uploading, ${Math.floor(fraction * 100)} %`);
          say(`Recognising ${file.name}.`);
          progress(null, "waiting to be recognised");
        },
        recognised: (position, duration) => {
          recording.duration = duration;
          progress(position / duration, `recognising, ${clock(position)} of ${clock(duration)}`);
        },
        line: (line) => transcript.add(recording, line),
      });
      const found = recording.lines.length > 0 ? [] : ["No words were recognised."];
      say([`Finished ${file.name}.`, ...found, ...warnings.map((warning) => `Note: ${warning}.`)].join(" "));
    }
  });
}

// --- saving the transcript

function download(extension, type, content) {
  const [first, ...others] = transcript.recordings;
  const fromFile = others.length === 0 && first.source !== "Microphone";
  const localTime = new Date(first.started - first.started.getTimezoneOffset() * 60_000).toISOString();
  const name = fromFile
    ? first.source.replace(/\.[^.]*$/, "")
    : `unichoir-${localTime.slice(0, 16).replace(/[T:]/g, "-")}`;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = `${name}.${extension}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

async function copy() {
  const text = toText(transcript.recordings);
  try {
    await navigator.clipboard.writeText(text);
    say("Copied.");
  } catch {
    // Insecure pages cannot use the clipboard API, but they can copy a selection.
    getSelection().selectAllChildren($("lines"));
    const refused = "The browser did not allow copying. The transcript is selected; copy it with the keyboard.";
    say(document.execCommand("copy") ? "Copied." : refused);
  }
}

function clear() {
  restore = transcript.clear();
  $("undo").hidden = false;
  $("undo").focus();
  say("Transcript cleared.");
}

function undo() {
  restore();
  $("undo").hidden = true;
  $("clear").focus();
  say("Transcript restored.");
}

// --- controls

const savers = {
  text: ["txt", "text/plain", toText],
  srt: ["srt", "application/x-subrip", toSrt],
  vtt: ["vtt", "text/vtt", toVtt],
  json: ["json", "application/json", (recordings) => toJson(recordings, model)],
};
for (const [name, [extension, type, format]] of Object.entries(savers)) {
  $(`download-${name}`).onclick = () => download(extension, type, format(transcript.recordings));
}
$("listen").onclick = () => (activity ? stop() : startListening());
$("cancel").onclick = stop;
$("file").onchange = ({ target }) => {
  upload([...target.files]);
  target.value = ""; // allows choosing the same file again
};
$("file").onkeydown = ({ key, target }) => {
  if (key === "Enter") target.click(); // it looks like a button
};
$("dismiss").onclick = () => ($("error").hidden = true);
$("login").onsubmit = useKey;
$("times").onchange = ({ target }) => $("transcript").classList.toggle("detailed", target.checked);
$("copy").onclick = copy;
$("clear").onclick = clear;
$("undo").onclick = undo;

let dragDepth = 0; // dragenter and dragleave fire for every nested element
const showDrop = (change) => {
  dragDepth = change ? dragDepth + change : 0;
  $("drop").hidden = dragDepth === 0 || Boolean(activity);
};
const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
document.addEventListener("dragenter", (event) => carriesFiles(event) && showDrop(1));
document.addEventListener("dragleave", (event) => carriesFiles(event) && showDrop(-1));
document.addEventListener("dragover", (event) => carriesFiles(event) && event.preventDefault());
document.addEventListener("drop", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  showDrop(0);
  upload([...event.dataTransfer.files]);
});

window.addEventListener("beforeunload", (event) => activity && event.preventDefault());
showActivity();
$("times").dispatchEvent(new Event("change")); // browsers keep the checkbox's state when the page is reloaded
findModel().catch((problem) => {
  $("model").textContent = "unknown";
  say("Not connected.");
  complain(problem);
});
