// The vendor's Node client on a tour of an OpenAI-compatible server: `node tests/tours/tour.mjs --model nano [STOP ...]`.
//
// The server is at OPENAI_BASE_URL, its key in OPENAI_API_KEY, as for any program that uses the client. Prints a line per
// stop, `ok NAME` or `FAILED NAME` with the error on stderr; exits 1 if any failed. Without names it goes everywhere.
// The stops bear the names of those in Python's tour.

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';

import OpenAI, { toFile } from 'openai';
import { zodFunction, zodResponseFormat, zodTextFormat } from 'openai/helpers/zod';
import { z } from 'zod';

const PATIENCE_MS = 120_000;
const FACTS = 'Summarise: The pump in hall 3 leaks. It was repaired in May. Parts are on order.';
const ASKED = [{ role: 'user', content: FACTS }];
const WEATHER = [{ role: 'user', content: 'What is the weather in Paris?' }];
// A red square of 64 x 64 pixels.
const PICTURE =
  'data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAEAAAABACAIAAAAlC+aJAAAAS0lEQVR42u3PQQkAAAgAsetfWiP4FgYrsKZeS0BAQEBAQEBAQEBA' +
  'QEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEDgsqnc8OJg6Ln3AAAAAElFTkSuQmCC';

const Leak = z.object({ place: z.string(), repaired: z.boolean() });
const getWeather = zodFunction({
  name: 'get_weather',
  description: 'The weather of a city now.',
  parameters: z.object({ city: z.string() }),
});
const findOrder = zodFunction({
  name: 'find_order',
  description: 'Looks an order up by its number.',
  parameters: z.object({ number: z.number() }),
});
const TOOLS = [getWeather, findOrder];
const ENDED = ['completed', 'failed', 'expired', 'cancelled'];

const { values, positionals } = parseArgs({ options: { model: { type: 'string' } }, allowPositionals: true });
const model = values.model;
const client = new OpenAI({ maxRetries: 0, timeout: PATIENCE_MS });
const completions = client.chat.completions;

/** Looks until it is done; what was seen last. */
async function until(look, done) {
  const deadline = Date.now() + PATIENCE_MS;
  for (;;) {
    const found = await look();
    if (done(found)) return found;
    assert.ok(Date.now() < deadline, `after ${PATIENCE_MS} ms it is still ${JSON.stringify(found)}`);
    await sleep(100);
  }
}

/** The error with which the client reports a refusal; it has to be of that kind, with these fields. */
async function refused(kind, request, fields = {}) {
  const error = await request().then(
    (answer) => assert.fail(`it was answered instead of refused: ${JSON.stringify(answer)}`),
    (error) => error,
  );
  assert.ok(error instanceof kind, error);
  for (const [name, value] of Object.entries(fields)) assert.equal(error[name], value, error.message);
}

async function all(stream) {
  const found = [];
  for await (const each of stream) found.push(each);
  return found;
}

function line(customId, of, more = {}) {
  const body = { model: of, messages: [{ role: 'user', content: `${FACTS} (${customId})` }], ...more };
  return { custom_id: customId, method: 'POST', url: '/v1/chat/completions', body };
}

async function submitted(requests) {
  const content = Buffer.from(requests.map((request) => `${JSON.stringify(request)}\n`).join(''));
  const given = await client.files.create({ file: await toFile(content, 'requests.jsonl'), purpose: 'batch' });
  return client.batches.create({
    input_file_id: given.id,
    endpoint: '/v1/chat/completions',
    completion_window: '24h',
  });
}

async function lines(fileId) {
  const text = await (await client.files.content(fileId)).text();
  const found = text.trim().split('\n').map((each) => JSON.parse(each));
  return Object.fromEntries(found.map((each) => [each.custom_id, each]));
}

const STOPS = {
  async models() {
    const listed = [];
    for await (const each of client.models.list()) listed.push(each.id);
    assert.ok(listed.includes(model), listed.join());
    assert.equal((await client.models.retrieve(model)).id, model);
  },

  async chat() {
    const answer = await completions.create({ model, messages: ASKED, temperature: 0, max_completion_tokens: 500 });
    assert.equal(answer.object, 'chat.completion');
    assert.match(answer.id, /^chatcmpl-/);
    assert.equal(answer.choices[0].finish_reason, 'stop');
    assert.match(answer.choices[0].message.content, /pump/i);
    assert.ok(answer.usage.prompt_tokens > 0 && answer.usage.completion_tokens > 0);
    assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
  },

  async headers() {
    const { data, response, request_id } = await completions.create({ model, messages: ASKED }).withResponse();
    assert.ok(request_id);
    assert.equal(response.headers.get('x-request-id'), request_id);
    assert.equal(data._request_id, request_id);
  },

  async 'fleet-headers'() {
    const { response } = await completions.create({ model, messages: ASKED }).withResponse();
    assert.ok(response.headers.get('x-fleet-job'));
    assert.ok(['nano', 'mini', 'flagship'].includes(response.headers.get('x-fleet-tier')));
    assert.ok(Number(response.headers.get('x-fleet-cost-usd')) > 0);
  },

  async stream() {
    const options = { model, messages: ASKED, stream: true, stream_options: { include_usage: true } };
    const chunks = await all(await completions.create(options));
    const choices = chunks.flatMap((chunk) => chunk.choices);
    assert.equal(new Set(chunks.map((chunk) => chunk.id)).size, 1);
    assert.equal(choices[0].delta.role, 'assistant');
    assert.match(choices.map((choice) => choice.delta.content ?? '').join(''), /pump/i);
    assert.deepEqual(choices.map((choice) => choice.finish_reason).filter(Boolean), ['stop']);
    assert.ok(chunks.at(-1).usage.completion_tokens > 0);

    const runner = completions.stream({ model, messages: ASKED });
    let told = '';
    runner.on('content', (delta) => (told += delta));
    assert.equal(await runner.finalContent(), told);
  },

  async turns() {
    const first = await completions.create({ model, messages: ASKED });
    const messages = [...ASKED, first.choices[0].message, { role: 'user', content: 'When was the pump repaired?' }];
    const second = await completions.create({ model, messages });
    assert.ok(second.choices[0].message.content);
    assert.ok(second.usage.prompt_tokens > first.usage.prompt_tokens);
  },

  async picture() {
    const tokens = async (...parts) => {
      const content = [{ type: 'text', text: 'What colour is this picture?' }, ...parts];
      return (await completions.create({ model, messages: [{ role: 'user', content }] })).usage.prompt_tokens;
    };
    assert.ok((await tokens({ type: 'image_url', image_url: { url: PICTURE } })) > (await tokens()));
  },

  async parse() {
    const answer = await completions.parse({
      model,
      messages: ASKED,
      response_format: zodResponseFormat(Leak, 'leak'),
    });
    Leak.parse(answer.choices[0].message.parsed);
  },

  async tools() {
    const asked = await completions.parse({ model, messages: WEATHER, tools: TOOLS });
    const message = asked.choices[0].message;
    assert.equal(asked.choices[0].finish_reason, 'tool_calls');
    assert.equal(typeof message.tool_calls[0].function.parsed_arguments.city, 'string');
    const results = message.tool_calls.map((call) => ({
      role: 'tool',
      tool_call_id: call.id,
      content: '{"celsius": 14}',
    }));
    const told = await completions.create({ model, messages: [...WEATHER, message, ...results], tools: TOOLS });
    assert.match(told.choices[0].message.content, /14/);

    // The same by the client's own loop.
    const called = [];
    const runner = completions.runTools({
      model,
      messages: WEATHER,
      tools: [
        zodFunction({
          name: 'get_weather',
          description: 'The weather of a city now.',
          parameters: z.object({ city: z.string() }),
          function: ({ city }) => called.push(city) && { celsius: 14 },
        }),
      ],
    });
    assert.match(await runner.finalContent(), /14/);
    assert.equal(called.length, 1);
  },

  async 'tool-choice'() {
    const called = async (tool_choice) => {
      const options = { model, messages: WEATHER, tools: TOOLS, tool_choice, parallel_tool_calls: false };
      const { message } = (await completions.create(options)).choices[0];
      return (message.tool_calls ?? []).map((call) => call.function.name);
    };
    assert.deepEqual(await called('none'), []);
    assert.equal((await called('required')).length, 1);
    assert.deepEqual(await called({ type: 'function', function: { name: 'find_order' } }), ['find_order']);
  },

  async 'tool-stream'() {
    const runner = completions.stream({ model, messages: WEATHER, tools: TOOLS });
    const { choices } = await runner.finalChatCompletion();
    assert.equal(choices[0].finish_reason, 'tool_calls');
    const call = choices[0].message.tool_calls[0];
    assert.match(call.id, /^call_/);
    assert.equal(call.function.name, 'get_weather');
    assert.equal(typeof JSON.parse(call.function.arguments).city, 'string');
  },

  async errors() {
    await refused(OpenAI.NotFoundError, () => completions.create({ model: 'gpt-0', messages: ASKED }), {
      status: 404,
      code: 'model_not_found',
      type: 'invalid_request_error',
    });
    await refused(OpenAI.BadRequestError, () => completions.create({ model, messages: ASKED, tempature: 1 }), {
      code: 'unknown_parameter',
      param: 'tempature',
    });
    await refused(OpenAI.BadRequestError, () => completions.create({ model, messages: 'Hello.' }), {
      code: 'invalid_type',
      param: 'messages',
    });
    await refused(OpenAI.BadRequestError, () => completions.create({ model }), {
      code: 'missing_required_parameter',
      param: 'messages',
    });
  },

  async 'bad-key'() {
    const stranger = new OpenAI({ apiKey: 'sk-nobody', maxRetries: 0 });
    await refused(OpenAI.AuthenticationError, () => stranger.chat.completions.create({ model, messages: ASKED }), {
      code: 'invalid_api_key',
    });
  },

  async idempotency() {
    const asked = async (key, content) => {
      const options = { headers: { 'Idempotency-Key': key } };
      return (await completions.create({ model, messages: [{ role: 'user', content }] }, options)).id;
    };
    const key = randomUUID();
    const first = await asked(key, FACTS);
    assert.equal(await asked(key, FACTS), first);
    assert.notEqual(await asked(randomUUID(), FACTS), first);
    await refused(OpenAI.ConflictError, () => asked(key, 'Something else.'));
  },

  async response() {
    const answer = await client.responses.create({ model, input: FACTS, instructions: 'Be brief.' });
    assert.match(answer.id, /^resp_/);
    assert.equal(answer.status, 'completed');
    assert.match(answer.output_text, /pump/i);
    assert.equal((await client.responses.retrieve(answer.id)).output_text, answer.output_text);
  },

  async 'response-items'() {
    const content = [
      { type: 'input_text', text: FACTS },
      { type: 'input_image', image_url: PICTURE, detail: 'auto' },
    ];
    const input = [
      { role: 'developer', content: 'You are a careful engineer.' },
      { role: 'user', content },
    ];
    assert.ok((await client.responses.create({ model, input })).output_text);
  },

  async 'response-format'() {
    const answer = await client.responses.parse({
      model,
      input: FACTS,
      text: { format: zodTextFormat(Leak, 'leak') },
    });
    Leak.parse(answer.output_parsed);
  },

  async 'response-events'() {
    const stream = client.responses.stream({ model, input: FACTS });
    const events = await all(stream);
    const final = await stream.finalResponse();
    assert.equal(events[0].type, 'response.created');
    assert.equal(events.at(-1).type, 'response.completed');
    const deltas = events.filter((event) => event.type === 'response.output_text.delta');
    assert.equal(deltas.map((event) => event.delta).join(''), final.output_text);
  },

  async background() {
    const begun = await client.responses.create({ model, input: FACTS, background: true });
    const ended = await until(
      () => client.responses.retrieve(begun.id),
      (seen) => !['queued', 'in_progress'].includes(seen.status),
    );
    assert.equal(ended.status, 'completed');
    assert.match(ended.output_text, /pump/i);
  },

  async 'background-cancel'() {
    const begun = await client.responses.create({ model, input: FACTS, background: true });
    const { status } = await client.responses.cancel(begun.id);
    // It may have been quicker.
    assert.ok(['cancelled', 'completed'].includes(status), status);
    assert.equal((await client.responses.retrieve(begun.id)).status, status);
  },

  async files() {
    const content = '{"a": 1}\n';
    const made = await client.files.create({
      file: await toFile(Buffer.from(content), 'tour.jsonl'),
      purpose: 'batch',
    });
    assert.equal(made.bytes, content.length);
    assert.equal((await client.files.retrieve(made.id)).filename, 'tour.jsonl');
    const listed = await all(client.files.list({ purpose: 'batch' }));
    assert.ok(listed.some((each) => each.id === made.id));
    assert.equal(await (await client.files.content(made.id)).text(), content);
    assert.equal((await client.files.delete(made.id)).deleted, true);
    await refused(OpenAI.NotFoundError, () => client.files.retrieve(made.id));
  },

  async batch() {
    const made = await submitted([line('row-0', model), line('row-1', model), line('bad', model, { temperature: 9 })]);
    assert.ok((await client.batches.list({ limit: 5 })).data.some((each) => each.id === made.id));
    const ended = await until(
      () => client.batches.retrieve(made.id),
      (seen) => ENDED.includes(seen.status),
    );
    assert.equal(ended.status, 'completed');
    assert.deepEqual({ ...ended.request_counts }, { total: 3, completed: 2, failed: 1 });
    const answers = await lines(ended.output_file_id);
    assert.deepEqual(Object.keys(answers).sort(), ['row-0', 'row-1']);
    assert.ok(answers['row-0'].response.body.choices[0].message.content);
    assert.deepEqual(Object.keys(await lines(ended.error_file_id)), ['bad']);
  },

  async 'batch-cancel'() {
    const made = await submitted(Array.from({ length: 20 }, (_, number) => line(`row-${number}`, model)));
    await client.batches.cancel(made.id);
    const ended = await until(
      () => client.batches.retrieve(made.id),
      (seen) => ENDED.includes(seen.status),
    );
    // It may have been quicker.
    assert.ok(['cancelled', 'completed'].includes(ended.status), ended.status);
  },
};

const unknown = positionals.filter((name) => !(name in STOPS));
if (!model || unknown.length) {
  console.error(`usage: tour.mjs --model MODEL [STOP ...], stops are ${Object.keys(STOPS).join(', ')}`);
  process.exit(2);
}
for (const name of positionals.length ? positionals : Object.keys(STOPS)) {
  try {
    await STOPS[name]();
    console.log(`ok ${name}`);
  } catch (error) {
    process.exitCode = 1;
    console.log(`FAILED ${name}`);
    console.error(error);
  }
}
