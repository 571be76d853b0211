-- DELETE: ARGV are groups of two: id and seed, the halves of a receipt handle. Answers 1 or 0 for each.
--
-- Invariant: only the newest receipt handle of a message deletes it. Who held the message before its
-- visibility timeout ended, and lost it to another receiver, deletes nothing.

local answers = {}
for start = 1, #ARGV, 2 * CHUNK do
  local asked, found = {}, {}
  for index = start, math.min(start + 2 * CHUNK, #ARGV) - 1, 2 do
    asked[#asked + 1] = ARGV[index]
  end
  local entries = redis.call('HMGET', received, unpack(asked))
  for index, id in ipairs(asked) do
    local _, _, seed = read_received(entries[index])
    if seed and seed == ARGV[start + 2 * index - 1] then
      found[#found + 1] = id
      answers[#answers + 1] = 1
    else
      answers[#answers + 1] = 0
    end
  end
  remove(found)
end
return answers
