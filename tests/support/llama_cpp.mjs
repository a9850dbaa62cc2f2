// Runs llama.cpp on a GGUF file: reads {model, requests} from standard input, writes the answers as JSON.
import {readFileSync} from "node:fs";
import {getLlama, LlamaLogLevel} from "node-llama-cpp";

const {model: modelPath, contextSize, requests} = JSON.parse(readFileSync(0, "utf-8"));
const llama = await getLlama({gpu: false, build: "never", logLevel: LlamaLogLevel.error, maxThreads: 1});
const model = await llama.loadModel({modelPath, gpuLayers: 0});
const context = await model.createContext({
    contextSize, batchSize: contextSize, threads: 1, flashAttention: false,
    experimentalKvCacheKeyType: "F32", experimentalKvCacheValueType: "F32"
});
const all = {temperature: 1, topK: 0, topP: 1, minP: 0};  // no token is left out

const answer = {
    // Text as tokens, marks of special tokens as such only if `special`.
    tokenize: ({text, special}) => Array.from(model._model.tokenize(text, special)),
    detokenize: ({ids}) => model.detokenize(ids, true),
    // The token after all of `ids` with the highest probability, `steps` times.
    generate: async ({ids, steps}) => {
        const sequence = context.getSequence();
        const made = [];
        for await (const token of sequence.evaluate(ids, {temperature: 0, yieldEogToken: true})) {
            made.push(token);
            if (made.length === steps) break;
        }
        sequence.dispose();
        return made;
    },
    // For each of `ids`, the probabilities of what follows, by token.
    probabilities: async ({ids}) => {
        const sequence = context.getSequence();
        const options = {generateNext: {probabilities: true, options: all}};
        const outputs = await sequence.controlledEvaluate(ids.map((id) => [id, options]));
        sequence.dispose();
        return outputs.map(({next}) => Array.from(next.probabilities.entries()));
    },
    render: ({messages}) => {
        const template = new llama._bindings.AddonJinjaRenderer(model.fileInfo.metadata.tokenizer.chat_template);
        return template.render({messages, add_generation_prompt: true, bos_token: "", eos_token: ""});
    },
    facts: () => ({
        bos: model.tokens.bos, eos: model.tokens.eos, starts: model.tokens.shouldPrependBosToken,
        stops: requests[0].of?.map((id) => model.isEogToken(id)),
        length: model.trainContextSize, name: model.fileInfo.metadata.general.name,
        template: model.fileInfo.metadata.tokenizer.chat_template ?? null
    })
};
const answers = [];
for (const request of requests) answers.push(await answer[request.kind](request));
process.stdout.write(JSON.stringify(answers));
process.exit(0);
