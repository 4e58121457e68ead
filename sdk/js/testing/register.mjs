// `node --import …/register.mjs --test`: lets Node find a host that records, in place of the imports of a component.

import { register } from "node:module";

const double = new URL("./double.mjs", import.meta.url).href;

// Hooks live in a thread of their own, hence source text. All interfaces are one module.
const hooks = `export const resolve = (specifier, context, next) =>
  next(/^(helix|wasi):/.test(specifier) ? ${JSON.stringify(double)} : specifier, context);`;

register(`data:text/javascript,${encodeURIComponent(hooks)}`);
