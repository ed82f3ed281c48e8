// Runs models in transformers.js for runtimes.py: a JSON command a line on stdin, a JSON answer a line on stdout.
import { writeFileSync } from "node:fs";
import { createInterface } from "node:readline";
import * as library from "@huggingface/transformers";

library.env.allowRemoteModels = false;
const BATCH_SIZE = 8;
const models = [];

async function load({ folder, dtype, options, num_threads }) {
  const session_options = { intraOpNumThreads: num_threads, interOpNumThreads: 1 };
  const settings = { dtype, device: "cpu", local_files_only: true, session_options };
  if (options.auto_class) {
    const kind = library[options.auto_class];
    if (!kind) throw new Error(`transformers.js has no ${options.auto_class}`);
    const tokenizer = await library.AutoTokenizer.from_pretrained(folder, settings);
    models.push({ options, tokenizer, model: await kind.from_pretrained(folder, settings) });
  } else {
    const pipe = await library.pipeline("feature-extraction", folder, settings);
    models.push({ options, pipe, tokenizer: pipe.tokenizer, model: pipe.model });
  }
  return { model: models.length - 1, version: library.env.version };
}

function tokenized({ tokenizer }, rows) {
  const second = rows.map((row) => row[1]);
  const pair = second.every((text) => text !== null) ? { text_pair: second } : {};
  return tokenizer(rows.map((row) => row[0]), { ...pair, padding: true, truncation: true });
}

// As `some_positions` in deployable.py.
function positions(numTokens, numClasses) {
  if (numClasses <= 1000 || numTokens <= 8) return [...Array(numTokens).keys()];
  return [...Array(8).keys()].map((index) => Math.floor((index * (numTokens - 1)) / 7));
}

async function vectors(entry, rows) {
  const { pooling, normalize } = entry.options;
  const found = await entry.pipe(rows.map((row) => row[0]), { pooling, normalize });
  return found.tolist().map((vector) => [{ shape: [vector.length], values: vector }]);
}

async function logits(entry, rows) {
  const inputs = tokenized(entry, rows);
  const outputs = await entry.model(inputs);
  const masks = inputs.attention_mask.tolist();
  const ids = inputs.input_ids.tolist();
  const skipped = new Set(entry.options.skipped);
  return rows.map((_, index) =>
    entry.options.outputs.map((name) => {
      const row = outputs[name][index];
      if (entry.options.is_about_text) return { shape: row.dims, values: Array.from(row.data) };
      const [numTokens, size = 1] = row.dims;
      const own = [...Array(numTokens).keys()].filter((token) => Number(masks[index][token]) === 1);
      const words = own.filter((token) => !skipped.has(Number(ids[index][token])));
      const kept = row.dims.length === 1 ? own : positions(words.length, size).map((place) => words[place]);
      const values = kept.flatMap((token) => Array.from(row.data.slice(token * size, (token + 1) * size)));
      return { shape: row.dims.length === 1 ? [kept.length] : [kept.length, size], values };
    }),
  );
}

async function results({ model, rows, file }) {
  const entry = models[model];
  const found = [];
  for (let start = 0; start < rows.length; start += BATCH_SIZE) {
    const batch = rows.slice(start, start + BATCH_SIZE);
    found.push(...(await (entry.pipe ? vectors(entry, batch) : logits(entry, batch))));
  }
  writeFileSync(file, Buffer.from(Float32Array.from(found.flat().flatMap((one) => one.values)).buffer));
  return { shapes: found.map((row) => row.map((one) => one.shape)) };
}

async function prepare({ model, rows }) {
  const entry = models[model];
  entry.batches ??= [];
  entry.batches.push(tokenized(entry, rows));
  return { batch: entry.batches.length - 1 };
}

async function pass({ model, batch }) {
  await models[model].model(models[model].batches[batch]);
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
