// The imports of a component, recorded.

const empty = () => ({ tasks: [], events: [], requests: [], onFetch: null, onPublish: null });

export const state = empty();

export function reset(settings = {}) {
  Object.assign(state, empty(), settings);
}

function published(list, message, target) {
  const refusal = state.onPublish?.(target);
  if (refusal) throw refusal;
  list.push(message);
  return `test/${state.tasks.length + state.events.length - 1}`;
}

export default {
  publishTask: (task) => published(state.tasks, task, task.queue ?? task.messageType),
  publishEvent: (event) => published(state.events, event, event.topic ?? event.messageType),
  send(request) {
    state.requests.push(request);
    if (!state.onFetch) throw { tag: "denied", val: `${request.url}: no onFetch in this test` };
    return state.onFetch(request);
  },
};
