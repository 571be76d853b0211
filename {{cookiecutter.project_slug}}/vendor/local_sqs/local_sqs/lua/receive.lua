-- RECEIVE: ARGV are the most messages to take, the seed of this call (unique), and a visibility timeout
-- in ms ('' = the queue's). Answers {wait in ms, ready messages left, ids, bodies, enqueue times,
-- receive counts, first receive times, details}; the last six run in parallel.
--
-- Invariant: a message is in `ready`, or in flight under exactly one receipt handle, the newest; there
-- is no moment in which only a client knows of it. A message whose receive count would exceed
-- max_receive_count moves, with its id and enqueue time, to the dead-letter queue instead.
--
-- A receipt handle is `<id>.<seed>`; `received` keeps the seed of the last receive. `wait` is how long
-- nothing can become visible without the inbox waking the caller: messages that others take meanwhile
-- stay invisible for at least the queue's visibility timeout.

local wanted, seed = tonumber(ARGV[1]), ARGV[2]
local time, rest = now()
local now_us, stamp = time * 1000, tostring(time)
local settings = queue_settings()
settle(math.max(wanted, 100), seed, time, rest, settings)

local visibility = settings.visibility_timeout
local hidden_until = (time + (tonumber(ARGV[3]) or visibility) - 1) * 1000
local most_receives, dead_letter_queue = settings.max_receive_count, settings.dead_letter_queue

local function dead_letter(id, content, enqueued, entry, extra)
  local letter = extra and cjson.decode(extra) or {}
  letter.dead_letter_source = inbox
  remove({ id })
  redis.call('HSET', dead_letter_queue .. ':body', id, content)
  redis.call('HSET', dead_letter_queue .. ':details', id, cjson.encode(letter))
  redis.call('HSET', dead_letter_queue .. ':received', id, entry)
  redis.call('ZADD', dead_letter_queue .. ':sent', enqueued, id)
  redis.call('ZADD', dead_letter_queue .. ':ready', time * 1000, id)
  wake(dead_letter_queue)
end

local ids, bodies, enqueued, counts, firsts, all_details = {}, {}, {}, {}, {}, {}
local exhausted = false -- whether `ready` holds nothing more that may be received
while #ids < wanted and not exhausted do
  local some = math.min(wanted - #ids, CHUNK)
  local candidates = redis.call('ZRANGEBYSCORE', ready, '-inf', now_us, 'LIMIT', 0, some)
  exhausted = #candidates < some
  if #candidates == 0 then
    break
  end
  local contents = redis.call('HMGET', body, unpack(candidates))
  local entries = redis.call('HMGET', received, unpack(candidates))
  local extras = redis.call('HMGET', details, unpack(candidates))
  local times = redis.call('ZMSCORE', sent, unpack(candidates))
  local flights, flying, marks = {}, {}, {}
  for index, id in ipairs(candidates) do
    local receives, first = read_received(entries[index])
    receives, first = receives + 1, first or stamp
    if not contents[index] then
      remove({ id }) -- its body was deleted by hand
    elseif most_receives and receives > most_receives then
      dead_letter(id, contents[index], times[index], entries[index], extras[index])
    else
      local taken, count = #ids + 1, #flights
      flights[count + 1], flights[count + 2] = hidden_until + taken, id -- they return in this order
      marks[count + 1], marks[count + 2] = id, receives .. ' ' .. first .. ' ' .. seed
      flying[#flying + 1] = id
      ids[taken], bodies[taken], enqueued[taken] = id, contents[index], times[index]
      counts[taken], firsts[taken], all_details[taken] = receives, first, extras[index]
    end
  end
  if #flying > 0 then
    redis.call('HSET', received, unpack(marks))
    redis.call('ZADD', in_flight, unpack(flights))
    redis.call('ZREM', ready, unpack(flying))
  end
end

local unseen = redis.call('LLEN', inbox)
local left = unseen + (exhausted and 0 or redis.call('ZCOUNT', ready, '-inf', now_us))
local wait = 0
if left > 0 then
  if unseen == 0 then
    redis.call('RPUSH', inbox, '') -- invariant 2
  end
else
  wait = visibility
  for _, set in ipairs({ ready, in_flight }) do
    local head = redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')
    if head[2] then
      wait = math.min(wait, math.ceil(tonumber(head[2]) / 1000 - time))
    end
  end
  redis.call('SADD', 'local_sqs:queues', inbox) -- the caller may sleep now: advance_clock.lua wakes it
end
return { wait, left, ids, bodies, enqueued, counts, firsts, all_details }
