-- Prelude for the content-based deduplication of bodies that were pushed: Redis knows SHA-1 only.
--
-- Invariant: the same digest as a client computes for `send` (FIPS 180-4). About 2 us a byte, which is why
-- clients that can compute it do so.

local START, ROUNDS = {}, {} -- filled by the first call

-- The standard's constants are the first 32 bits after the point of the roots of the first 64 primes.
local function first_bits(root)
  return bit.tobit(math.floor(root % 1 * 4294967296))
end

local function cube_root(number)
  local root = number ^ (1 / 3)
  return root - (root * root * root - number) / (3 * root * root) -- mends what pow() rounded
end

local function prime(number)
  for divisor = 2, math.sqrt(number) do
    if number % divisor == 0 then
      return false
    end
  end
  return true
end

local function fill_constants()
  local number = 2
  while #ROUNDS < 64 do
    if prime(number) then
      START[#START + 1] = first_bits(math.sqrt(number))
      ROUNDS[#ROUNDS + 1] = first_bits(cube_root(number))
    end
    number = number + 1
  end
end

local function sha256(text)
  local band, bxor, bnot, ror, shift = bit.band, bit.bxor, bit.bnot, bit.ror, bit.rshift
  if #ROUNDS == 0 then
    fill_constants()
  end
  local state = { unpack(START, 1, 8) }
  local length = #text * 8
  local high = math.floor(length / 4294967296)
  text = text .. '\128' .. string.rep('\0', (55 - #text) % 64)
    .. struct.pack('>I4I4', high, length - high * 4294967296)

  local words = {}
  for start = 1, #text, 64 do
    for index = 1, 16 do
      words[index] = bit.tobit((struct.unpack('>I4', text, start + index * 4 - 4)))
    end
    for index = 17, 64 do
      local early, late = words[index - 15], words[index - 2]
      local low = bxor(ror(early, 7), ror(early, 18), shift(early, 3))
      local top = bxor(ror(late, 17), ror(late, 19), shift(late, 10))
      words[index] = bit.tobit(words[index - 16] + low + words[index - 7] + top)
    end
    local a, b, c, d, e, f, g, h = unpack(state)
    for index = 1, 64 do
      local first = h + bxor(ror(e, 6), ror(e, 11), ror(e, 25)) + bxor(band(e, f), band(bnot(e), g))
        + ROUNDS[index] + words[index]
      local second = bxor(ror(a, 2), ror(a, 13), ror(a, 22)) + bxor(band(a, b), band(a, c), band(b, c))
      a, b, c, d, e, f, g, h = bit.tobit(first + second), a, b, c, bit.tobit(d + first), e, f, g
    end
    for index, word in ipairs({ a, b, c, d, e, f, g, h }) do
      state[index] = bit.tobit(state[index] + word)
    end
  end
  local digest = {}
  for index = 1, 8 do
    digest[index] = bit.tohex(state[index])
  end
  return table.concat(digest)
end
