-- RECEIVE: ARGV are the most messages to take, the seed of this call (unique), and a visibility timeout
-- in ms ('' = the queue's). Answers {wait in ms, ready messages left, {message, ...}}.
--
-- Invariant: a message is in `ready`, or in flight under exactly one receipt handle, the newest; there
-- is no moment in which only a client knows of it. A message whose receive count would exceed
-- max_receive_count moves, with its id and enqueue time, to the dead-letter queue instead.
--
-- A receipt handle is `<id>.<seed>`; the hash keeps the seed of the last receive. `wait` is how long nothing can become visible without the inbox waking the caller: messages that
-- others take meanwhile stay invisible for at least the queue's visibility timeout.

local wanted, seed = tonumber(ARGV[1]), ARGV[2]
local time, rest = now()
redis.call('SADD', 'local_sqs:queues', inbox)
local settings = queue_settings()
settle(math.max(wanted, 100), seed, time, rest, settings)

local visibility = settings.visibility_timeout
local hidden_until = time + (tonumber(ARGV[3]) or visibility) - 1
local most_receives, dead_letter_queue = settings.max_receive_count, settings.dead_letter_queue

local function dead_letter(id)
  local target = dead_letter_queue .. ':message:' .. id
  redis.call('RENAME', message_key(id), target)
  redis.call('HSET', target, 'dead_letter_source', inbox)
  redis.call('ZADD', dead_letter_queue .. ':sent', redis.call('ZSCORE', sent, id), id)
  redis.call('ZADD', dead_letter_queue .. ':ready', time, id)
  redis.call('ZREM', sent, id)
  redis.call('ZREM', ready, id)
  wake(dead_letter_queue)
end

local taken = {}
while #taken < wanted do
  local some = math.min(wanted - #taken, 1000) -- what unpack() below can take
  local candidates = redis.call('ZRANGEBYSCORE', ready, '-inf', time, 'LIMIT', 0, some)
  if #candidates == 0 then
    break
  end
  local flights, flying = {}, {}
  for _, id in ipairs(candidates) do
    local key = message_key(id)
    local message = redis.call('HMGET', key, 'body', 'sent_timestamp', 'receive_count',
      'first_receive_timestamp', 'attributes', 'group_id', 'deduplication_id', 'dead_letter_source')
    local receives = (tonumber(message[3]) or 0) + 1
    if not message[1] then
      remove({ id }) -- its hash was deleted by hand
    elseif most_receives and receives > most_receives then
      dead_letter(id)
    else
      local first = message[4] or time
      redis.call('HSET', key, 'receive_count', receives, 'first_receive_timestamp', first, 'receipt', seed)
      message[3], message[4], message[9] = receives, first, id
      flights[#flights + 1] = hidden_until + math.min(#taken, 4095) / 4096 -- return in this order
      flights[#flights + 1] = id
      flying[#flying + 1] = id
      taken[#taken + 1] = message
    end
  end
  if #flights > 0 then
    redis.call('ZADD', in_flight, unpack(flights))
    redis.call('ZREM', ready, unpack(flying))
  end
end

local left = redis.call('ZCOUNT', ready, '-inf', time) + redis.call('LLEN', inbox)
local wait = 0
if left > 0 then
  wake(inbox)
else
  wait = visibility
  for _, set in ipairs({ ready, in_flight }) do
    local head = redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')
    if head[2] then
      wait = math.min(wait, math.ceil(tonumber(head[2]) - time))
    end
  end
end
return { wait, left, taken }
