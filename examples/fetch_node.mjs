// A job from Node, with nothing but fetch: `FLEET_API_URL=... FLEET_API_KEY=... node fetch_node.mjs`.

const { FLEET_API_URL, FLEET_API_KEY } = process.env;

async function ask(path, options = {}) {
  const headers = { Authorization: `Bearer ${FLEET_API_KEY}`, 'Content-Type': 'application/json', ...options.headers };
  const answer = await fetch(`${FLEET_API_URL}/v1/jobs${path}`, { ...options, headers });
  if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`);
  return answer;
}

const items = [
  { id: 'T1', text: 'I was charged twice.' },
  { id: 'T2', text: 'The app crashes with an error.' },
];
const topic = { enum: ['billing', 'bug', 'other'] };
const output = { type: 'object', required: ['topic'], properties: { topic } };
const steps = [{ id: 'topic', each: 'items', tier: 'nano', prompt: 'Topic of this ticket? {{ item.text }}', output }];
// Sent twice under one key it is one job, so that this may be tried again after a lost answer.
const submit = { method: 'POST', headers: { 'Idempotency-Key': crypto.randomUUID() } };
let job = await (await ask('', { ...submit, body: JSON.stringify({ name: 'topics', items, steps }) })).json();

while (!['completed', 'failed', 'cancelled'].includes(job.status)) {
  await new Promise((resolve) => setTimeout(resolve, 500));
  job = await (await ask(`/${job.id}`)).json();
}
if (job.status !== 'completed') throw new Error(`The job ${job.status}: ${job.error}`);
for (const line of (await (await ask(`/${job.id}/results`)).text()).trim().split('\n').map(JSON.parse)) {
  console.log(`${line.item.id} -> ${line.output.topic} (${line.tier}, $${line.cost_usd})`);
}
