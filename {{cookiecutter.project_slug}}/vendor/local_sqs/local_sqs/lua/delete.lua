-- DELETE: ARGV are ids, then in the same order seeds: the halves of receipt handles. Answers 1 or 0 for each.
--
-- Invariant: only the newest receipt handle of a message deletes it. Who held the message before its
-- visibility timeout ended, and lost it to another receiver, deletes nothing.

local number, answers = #ARGV / 2, {}
local faults = redis.call('HGET', attributes, 'faults')
local has_details = redis.call('EXISTS', details) == 1
for start = 1, number, CHUNK do
  local last = math.min(start + CHUNK - 1, number)
  local entries, found = redis.call('HMGET', state, unpack(ARGV, start, last)), {}
  for index = start, last do
    local id, seed, entry = ARGV[index], ARGV[number + index], entries[index - start + 1]
    if faults and deletion_fails(id, entry, seed) then
      answers[index] = 1
    elseif is_newest(entry, seed) then
      found[#found + 1], answers[index] = id, 1
    else
      answers[index] = 0
    end
  end
  if #found > 0 then
    redis.call('HDEL', body, unpack(found))
    redis.call('HDEL', state, unpack(found))
    if has_details then
      redis.call('HDEL', details, unpack(found))
    end
    if redis.call('ZREM', in_flight, unpack(found)) < #found then
      for _, id in ipairs(found) do
        redis.call('LREM', ready, -1, id) -- its visibility timeout had ended, and nobody had received it since
      end
    end
  end
end
return answers
