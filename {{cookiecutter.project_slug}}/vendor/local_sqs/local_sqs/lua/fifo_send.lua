-- SEND to a FIFO queue: ARGV are groups of six: id, body, group, deduplication id, '1' when that is only the
-- body's SHA-256, details (JSON). Answers for each {id, sequence number}, or 0 when it is refused: it names
-- no deduplication id, and the queue does not deduplicate by content.
--
-- Invariant: of the messages sent under one deduplication id within five minutes only the first is enqueued;
-- the others are accepted and answered with its id. Hence a send may be repeated, too.

local time, rest = now()
local stored = redis.call('HMGET', attributes, 'delay', 'content_based_deduplication')
local delay, by_content = tonumber(stored[1]) or 0, stored[2] == '1'
forget_duplicates(time)
local answers, from = {}, just_before(time, rest, #ARGV) + delay * 1000
for index = 1, #ARGV, 6 do
  local id, content, group, deduplication_id, computed, extra = unpack(ARGV, index, index + 5)
  if computed == '1' and not by_content then
    answers[#answers + 1] = 0
  else
    answers[#answers + 1] = { accept(id, group, deduplication_id, content, extra, time, from + index) }
  end
end
wake(inbox)
return answers
