-- DELETE: ARGV are groups of two: id and seed, the halves of a receipt handle. Answers 1 or 0 for each.
--
-- Invariant: only the newest receipt handle of a message deletes it. Who held the message before its
-- visibility timeout ended, and lost it to another receiver, deletes nothing.

local answers, ids = {}, {}
for index = 1, #ARGV, 2 do
  local id, seed = ARGV[index], ARGV[index + 1]
  if redis.call('HGET', message_key(id), 'receipt') == seed then
    ids[#ids + 1] = id
    answers[#answers + 1] = 1
  else
    answers[#answers + 1] = 0
  end
end
for first = 1, #ids, 1000 do
  local some = {}
  for index = first, math.min(first + 999, #ids) do
    some[#some + 1] = ids[index]
  end
  remove(some)
end
return answers
