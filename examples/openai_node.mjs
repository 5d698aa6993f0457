// OpenAI's own client, pointed at the fleet: npm install openai, then
// `FLEET_API_URL=... FLEET_API_KEY=... node openai_node.mjs`.

import OpenAI from 'openai';

const client = new OpenAI({ baseURL: `${process.env.FLEET_API_URL}/v1`, apiKey: process.env.FLEET_API_KEY });
const text = 'The export crashes with an error since Monday. Three customers are waiting for it.';
const messages = [{ role: 'user', content: `Summarise: ${text}` }];

// `auto` starts on the cheapest tier that is likely to do; nano, mini and flagship name one.
const answer = await client.chat.completions.create({ model: 'auto', messages });
console.log(answer.choices[0].message.content);

for await (const chunk of await client.chat.completions.create({ model: 'nano', messages, stream: true })) {
  process.stdout.write(chunk.choices[0].delta.content ?? '');
}
console.log();
