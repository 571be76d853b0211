-- REDRIVE: ARGV are the seed of this call, the most messages to move and a queue to move them to ('' = each to
-- the queue that dead-lettered it). Answers how many were moved, or -1 when this is nobody's dead-letter queue.
--
-- Invariant: as with StartMessageMoveTask, a moved message is a new one: a new id, a new enqueue time, never
-- received; body, attributes and group are kept. What is in flight or delayed stays, and so does, without a
-- queue to move to, what was sent here directly.

local time = now()
if redis.call('SCARD', inbox .. ':sources') == 0 then
  return -1
end
local _, derived_id = inbox_readers()
local seed, most, destination = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local settings = queue_settings()
settle(10000, seed, time, settings)
drop_expired(time, settings.retention)
local moved = {}
for _, id in ipairs(redis.call('LRANGE', ready, 0, -1)) do
  if #moved == most then
    break
  end
  local content = redis.call('HGET', body, id)
  local letter = read_details(redis.call('HGET', details, id))
  local to = destination ~= '' and destination or letter.dead_letter_source
  if to and content then
    letter.dead_letter_source = nil
    moved[#moved + 1] = id
    redis.call('LREM', ready, 1, id)
    enqueue(to, derived_id(seed .. 'moved', #moved), content, tostring(time), letter)
  end
end
forget(moved)
wake_if_ready()
return #moved
