// Runs a GGUF file in llama.cpp, by node-llama-cpp, for llama_cpp.py; commands and answers as in transformers_js.mjs.
import { writeFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { getLlama } from "node-llama-cpp";

const llama = await getLlama({ gpu: false, build: "never", logLevel: "error", progressLogs: false });
const contexts = [];
const batches = [];

async function load({ file, num_threads }) {
  const model = await llama.loadModel({ modelPath: file, gpuLayers: 0 });
  contexts.push(await model.createEmbeddingContext({ threads: num_threads }));
  return { model: contexts.length - 1 };
}

async function vectors(model, texts) {
  const found = [];
  for (const text of texts) found.push((await contexts[model].getEmbeddingFor(text)).vector);
  return found;
}

async function results({ model, texts, file }) {
  const found = await vectors(model, texts);
  writeFileSync(file, Buffer.from(Float32Array.from(found.flat()).buffer));
  return { size: found[0].length };
}

async function prepare({ texts }) {
  batches.push(texts);
  return { batch: batches.length - 1 };
}

async function pass({ model, batch }) {
  await vectors(model, batches[batch]);
  return {};
}

const commands = { load, results, prepare, pass };
for await (const line of createInterface({ input: process.stdin })) {
  const { command, ...rest } = JSON.parse(line);
  let answer;
  try {
    answer = await commands[command](rest);
  } catch (error) {
    answer = { error: String(error.message ?? error).split("\n")[0] };
  }
  process.stdout.write(`@${JSON.stringify(answer)}\n`);
}
process.exit(0);
