// Runs llama.cpp on GGUF files: reads a list of {model, requests} from one file, writes the answers into another.
import {readFileSync, writeFileSync} from "node:fs";
import {getLlama, LlamaLogLevel} from "node-llama-cpp";

const llama = await getLlama({gpu: false, build: "never", logLevel: LlamaLogLevel.error, maxThreads: 1});
const everyToken = {temperature: 1, topK: 0, topP: 1, minP: 0};

const answers = {
    // Text as tokens; marks of special tokens are read as such only if `special`.
    tokenize: ({model}, {text, special}) => Array.from(model._model.tokenize(text, special ?? false)),
    detokenize: ({model}, {ids}) => model.detokenize(ids, true),
    // The likeliest token after all of `ids`, `steps` times.
    generate: async ({sequence}, {ids, steps}) => {
        const made = [];
        for await (const token of sequence.evaluate(ids, {temperature: 0, yieldEogToken: true})) {
            made.push(token);
            if (made.length === steps) break;
        }
        return made;
    },
    // For each of `ids`, the probability of every token after it, in pairs.
    probabilities: async ({sequence}, {ids}) => {
        const options = {generateNext: {probabilities: true, options: everyToken}};
        const outputs = await sequence.controlledEvaluate(ids.map((id) => [id, options]));
        return outputs.map(({next}) => Array.from(next.probabilities.entries()));
    },
    // The chat template of the file, for messages.
    render: ({model}, {messages}) => {
        const template = model.fileInfo.metadata.tokenizer.chat_template;
        return new llama._bindings.AddonJinjaRenderer(template).render({messages, add_generation_prompt: true});
    },
    facts: ({model}, {ids}) => ({
        bos: model.tokens.bos, eos: model.tokens.eos, starts: model.tokens.shouldPrependBosToken,
        stops: ids.filter((id) => model.isEogToken(id)), length: model.trainContextSize,
        general: model.fileInfo.metadata.general
    })
};
const runs = [];
for (const {model: modelPath, length, requests} of JSON.parse(readFileSync(process.argv[2], "utf-8"))) {
    const model = await llama.loadModel({modelPath, gpuLayers: 0});
    const context = await model.createContext({
        contextSize: length, batchSize: length, threads: 1, flashAttention: false,
        experimentalKvCacheKeyType: "F32", experimentalKvCacheValueType: "F32"
    });
    const sequence = context.getSequence();
    const run = [];
    for (const request of requests) {
        await sequence.clearHistory();
        run.push(await answers[request.kind]({model, sequence}, request));
    }
    runs.push(run);
    await context.dispose();
    await model.dispose();
}
const text = JSON.stringify(runs, (key, value) => typeof value === "bigint" ? Number(value) : value);
writeFileSync(process.argv[3], text);
process.exit(0);
