-- PEEK: ARGV are the most messages to show and the seed of this call. Answers {ids, bodies, enqueue
-- times, receive counts, first receive times, details}, which run in parallel.
--
-- Invariant: receive counts, handles and visibility stay as they are. Messages in flight are not shown.

local time, rest = now()
settle(10000, ARGV[2], time, rest, queue_settings())
wake_if_ready(time)
local most = tonumber(ARGV[1])
local ids, bodies, enqueued, counts, firsts, all_details = {}, {}, {}, {}, {}, {}
for start = 0, most - 1, CHUNK do
  local some = redis.call('ZRANGE', ready, start, math.min(start + CHUNK, most) - 1)
  if #some == 0 then
    break
  end
  local contents = redis.call('HMGET', body, unpack(some))
  local entries = redis.call('HMGET', received, unpack(some))
  local extras = redis.call('HMGET', details, unpack(some))
  local times = redis.call('ZMSCORE', sent, unpack(some))
  for index, id in ipairs(some) do
    if contents[index] then
      local shown = #ids + 1
      local receives, first = read_received(entries[index])
      ids[shown], bodies[shown], enqueued[shown] = id, contents[index], times[index]
      counts[shown], firsts[shown], all_details[shown] = receives, first or 0, extras[index]
    end
  end
end
return { ids, bodies, enqueued, counts, firsts, all_details }
