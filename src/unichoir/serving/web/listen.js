// Live recognition, from "Start listening" to the last word after "Stop".

import { Microphone } from "./microphone.js";
import { Problem } from "./problems.js";
import { Realtime } from "./realtime.js";

const RATE = 16_000; // Hz, as the model's features
const SILENCE = 1e-4; // -80 dB: no working microphone is this quiet
const SILENCE_SECONDS = 4;
const BACKLOG_SECONDS = 3;

/**
 * Recognises speech from the microphone until `stop` is aborted. `on`: {status(text), level(0 to 1), partial(text),
 * line(line), notice(problem), duration(seconds)}.
 */
export async function listen(model, stop, on) {
  const stopped = new Promise((resolve) => stop.addEventListener("abort", resolve));
  const early = []; // blocks recorded before `live` exists
  let live = null;
  let listening = false;
  let silence = 0;
  let unplugged;
  const lost = new Promise((resolve) => (unplugged = () => resolve("unplugged")));

  const onblock = (pcm, level) => {
    if (live) live.append(pcm);
    else early.push(pcm);
    on.level(level);
    silence = level < SILENCE ? silence + pcm.length / RATE : 0;
    if (!listening) return;
    if (silence > SILENCE_SECONDS) on.status("Listening, but the microphone is silent. Is it muted?");
    else if (live.backlog > BACKLOG_SECONDS) on.status("Listening, but the connection or the server is slow.");
    else on.status("Listening.");
  };

  on.status("Waiting for the microphone. The browser may ask you to allow it.");
  const opening = Microphone.open(RATE, { onblock, onended: unplugged });
  const microphone = await Promise.race([opening, stopped.then(() => null)]);
  if (!microphone) {
    opening.then((late) => late.close()).catch(() => {});
    throw new Problem("cancelled");
  }

  // A phone that turns off its screen would also turn off the microphone.
  const awake = navigator.wakeLock?.request("screen").catch(() => null);
  try {
    on.status("Connecting. You can already speak.");
    live = new Realtime(model, RATE, on);
    early.forEach((pcm) => live.append(pcm));
    await Promise.race([live.opened, stopped]);
    listening = true;
    const end = await Promise.race([stopped, lost, live.closed]);
    listening = false;
    on.status("Recognising the last words.");
    await microphone.finish();
    on.level(0);
    await live.finish();
    if (end === "unplugged") throw new Problem("unplugged");
  } catch (problem) {
    for (const line of live?.unfinished() ?? []) on.line(line);
    throw problem;
  } finally {
    if (live) on.duration(live.seconds);
    live?.close();
    awake?.then((lock) => lock?.release());
    await microphone.close();
  }
}
