// Task `notification` of `helixagent.tasks.notifications`, in JavaScript: writes the notification to the log.
//
//   { "channel": "log", "subject": "verification failed", "text": "…", "flaky": false }
//
// It needs no grant. For demonstrations, `"flaky": true` fails in the first attempt and is retried; the channel
// `"invalid"`, as any it does not know, is rejected and becomes a dead letter.

import { reject, retry, task } from "../../sdk/js/helix.js";

const CHANNELS = ["log", "mail", "chat"];

export const taskHandler = task((message) => {
  const note = message.json();
  if (typeof note?.text !== "string" || note.text === "") {
    throw reject("the notification has no text", { code: "text.missing" });
  }
  const channel = note.channel ?? "log";
  if (!CHANNELS.includes(channel)) {
    throw reject(`there is no channel "${channel}", only ${CHANNELS.join(", ")}`, { code: "channel.unknown" });
  }
  if (note.flaky === true && message.attempt === 1) {
    throw retry(`the ${channel} service is busy`, { code: "channel.busy" });
  }
  console.log(`[${channel}] ${note.subject ?? "notification"}: ${note.text} (attempt ${message.attempt})`);
});
