-- SEND to a FIFO queue: ARGV are how many elements of the inbox come before ('' = all that are there), then
-- groups of six: id, body, group, deduplication id, '1' when that is only the body's SHA-256, details (JSON).
-- Answers for each {id, sequence number}, or 0 when it is refused: it names no deduplication id, and the queue
-- does not deduplicate by content. Or, instead of all that, the number of elements that still come before: the
-- caller repeats the call with it. (No script may run for long, since the server does nothing else meanwhile.)
--
-- Invariant: of the messages sent under one deduplication id within five minutes only the first is enqueued;
-- the others are accepted and answered with its id. Hence a send may be repeated, too. What lies in the inbox
-- was pushed before, and comes before.

local time, rest = now()
local settings = queue_settings()
forget_duplicates(time)
local pushed = tonumber(ARGV[1]) or redis.call('LLEN', inbox)
local adopted = math.min(pushed, CHUNK)
local from = just_before(time, rest, adopted + #ARGV) + settings.delay * 1000
adopt(adopted, ARGV[2], time, from, settings)
if pushed > adopted then
  wake(inbox)
  return pushed - adopted
end
local answers = {}
for index = 2, #ARGV, 6 do
  local id, content, group, deduplication_id, computed, extra = unpack(ARGV, index, index + 5)
  if computed == '1' and not settings.content_based_deduplication then
    answers[#answers + 1] = 0
  else
    answers[#answers + 1] = { accept(id, group, deduplication_id, content, extra, time, from + adopted + index) }
  end
end
wake(inbox)
return answers
