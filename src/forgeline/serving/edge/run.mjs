// Answers from a folder that holds model.gguf, chat_template.jinja and generation.json.
//   node run.mjs "a question"        prints the greedy reply
//   node run.mjs --port 8700         serves /v1/chat/completions on loopback, several requests at once
// Needs Node 20 and the package node-llama-cpp (README.md says how to get it); no Python. Where the folder has a
// manifest.json, every file is held against its sha256 first.
import {createHash} from "node:crypto";
import {createServer} from "node:http";
import {readFileSync} from "node:fs";
import {availableParallelism} from "node:os";
import {dirname, join} from "node:path";
import {fileURLToPath} from "node:url";
import {parseArgs} from "node:util";
import {Template} from "@huggingface/jinja";
import {getLlama, LlamaLogLevel} from "node-llama-cpp";

const {values: given, positionals} = parseArgs({
    allowPositionals: true,
    options: {
        folder: {type: "string", default: dirname(fileURLToPath(import.meta.url))},
        port: {type: "string"},
        system: {type: "string"},
        parallel: {type: "string", default: "8"},
        // Threads of llama.cpp wait for each other by spinning: with one for every processor, whatever else runs stalls them.
        threads: {type: "string", default: String(Math.max(1, availableParallelism() >> 1))}
    }
});
const read = (name) => readFileSync(join(given.folder, name));

function verify() {
    let manifest;
    try { manifest = JSON.parse(read("manifest.json")); } catch { return; }
    for (const [name, digest] of Object.entries(manifest.files))
        if (createHash("sha256").update(read(name)).digest("hex") !== digest) {
            console.error(`error: ${name} is not the file that was packaged: its sha256 differs. Copy the package again.`);
            process.exit(1);
        }
}

verify();
const settings = JSON.parse(read("generation.json"));
const template = new Template(read("chat_template.jinja").toString());
const llama = await getLlama({gpu: false, build: "never", logLevel: LlamaLogLevel.error});
const model = await llama.loadModel({modelPath: join(given.folder, "model.gguf")});
const parallel = given.port ? Number(given.parallel) : 1;
const context = await model.createContext({
    sequences: parallel, contextSize: Math.min(settings.context, 2048), threads: Number(given.threads)
});
const free = Array.from({length: parallel}, () => context.getSequence());
const waiting = [];
const stops = new Set(settings.stop_ids);

const taken = () => free.length ? free.pop() : new Promise((resolve) => waiting.push(resolve));
const given_back = (sequence) => waiting.length ? waiting.shift()(sequence) : free.push(sequence);

/** Yields the text of a reply as it grows, with the number of tokens so far and why it ended. */
async function* reply(messages, {max_tokens = settings.max_tokens, temperature = 0, top_p = 1, seed} = {}) {
    const prompt = model.tokenize(template.render({messages, add_generation_prompt: true}), true);
    const room = Math.min(max_tokens, context.contextSize - prompt.length);
    if (room < 1) throw Object.assign(new Error("The prompt is longer than the context."), {status: 400});
    const sequence = await taken();
    try {
        await sequence.clearHistory();
        const tokens = [];
        let shown = "";
        for await (const token of sequence.evaluate(prompt, {temperature, topP: top_p, seed, yieldEogToken: true})) {
            const ended = stops.has(token);
            if (!ended) tokens.push(token);
            const said = model.detokenize(tokens);
            const reason = ended ? "stop" : tokens.length >= room ? "length" : null;
            if (reason || !said.endsWith("\ufffd")) {  // a character may span tokens
                yield {text: said.slice(shown.length), tokens: tokens.length + ended, prompt: prompt.length, reason};
                shown = said;
            }
            if (reason) return;
        }
    } finally {
        given_back(sequence);
    }
}

async function answer(request, response) {
    const send = (status, body) => response.writeHead(status, {"content-type": "application/json"}).end(JSON.stringify(body));
    if (request.url === "/readyz") return send(200, {status: "ready"});
    if (request.url === "/v1/models") return send(200, {object: "list", data: [{id: settings.model, object: "model"}]});
    if (request.method !== "POST" || request.url !== "/v1/chat/completions") return send(404, {error: {message: "no such path"}});
    let body = "";
    for await (const part of request) if ((body += part).length > 1e6) return send(413, {error: {message: "too long"}});
    let asked;
    try { asked = JSON.parse(body); } catch { return send(400, {error: {message: "not JSON"}}); }
    const head = {id: "chatcmpl-edge", model: settings.model, created: Math.floor(Date.now() / 1000)};
    const event = (chunk) => response.write(`data: ${JSON.stringify({...head, object: "chat.completion.chunk", ...chunk})}\n\n`);
    let whole = "", last;
    for await (const piece of reply(asked.messages, asked)) {
        if (response.destroyed) return;
        if (asked.stream && !response.headersSent) response.writeHead(200, {"content-type": "text/event-stream"});
        whole += piece.text;
        last = piece;
        if (asked.stream) event({choices: [{index: 0, delta: {content: piece.text}, finish_reason: piece.reason}]});
    }
    const usage = {prompt_tokens: last.prompt, completion_tokens: last.tokens, total_tokens: last.prompt + last.tokens};
    if (asked.stream) {
        event({choices: [], usage});
        return response.end("data: [DONE]\n\n");
    }
    const message = {role: "assistant", content: whole};
    send(200, {...head, object: "chat.completion", choices: [{index: 0, message, finish_reason: last.reason}], usage});
}

if (given.port) {
    const server = createServer((request, response) => answer(request, response).catch((fault) => {
        if (response.headersSent) return response.destroy();
        response.writeHead(fault.status ?? 500, {"content-type": "application/json"});
        response.end(JSON.stringify({error: {message: String(fault.message)}}));
    }));
    server.listen(Number(given.port), "127.0.0.1");
    process.on("SIGTERM", () => server.close(() => process.exit(0)));
} else {
    const system = given.system ?? settings.system;
    const messages = system ? [{role: "system", content: system}] : [];
    for await (const piece of reply([...messages, {role: "user", content: positionals.join(" ").replaceAll("\\n", "\n")}]))
        process.stdout.write(piece.text);
    process.stdout.write("\n");
    process.exit(0);
}
