// Server-sent events of a response, as they come.

import { Fault } from "./session.js";

async function* blocks(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split(/\r?\n\r?\n/);
    rest = parts.pop();
    yield* parts;
  }
}

/** Yield the chunks of a streamed completion; throw a Fault for an error event, or an end that was not announced. */
export async function* chunks(response) {
  try {
    for await (const block of blocks(response)) {
      const lines = block.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      const data = lines.map((line) => line.slice(5).trimStart()).join("\n");
      if (!data) continue;
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Fault(chunk.error.message, 0, chunk.error.code);
      yield chunk;
    }
  } catch (fault) {
    if (fault instanceof Fault || fault.name === "AbortError") throw fault;
    throw new Fault("The connection broke before the reply was complete.");
  }
  throw new Fault("The reply ended before it was complete.");
}
