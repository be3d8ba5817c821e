-- Reads the pointers of the next events that have all tags of at least one set. A script reads a bounded number of
-- positions, however many events have a tag.
-- KEYS  the feed; for each tag the positions of its events
-- ARGV  the positions after which and up to which the events are; the most positions to read for a set; for each set of
--       tags: their number, and the numbers of their keys
-- Reply: `found`, the position up to which these are all, or '' if no further ones are there, and the entries of the
--        feed; or `damaged`, key and reason
local after, reached, most = take(), take(), tonumber(take())
local wanted, is_whole = {}, true

-- Takes the keys of a set of tags, first that with the fewest positions; or returns nil and the script's reply.
local function take_keys()
  local keys, fewest = {}, math.huge
  for i = 1, tonumber(take()) do
    local key = KEYS[tonumber(take())]
    local count = redis.pcall('ZCARD', key)
    if error_of(count) then return nil, { 'damaged', key, count.err } end
    keys[i] = key
    if count < fewest then
      keys[1], keys[i], fewest = key, keys[1], count
    end
  end
  return keys
end

-- Returns the positions that a further tag also has.
local function common(positions, key)
  if #positions == 0 then return positions end
  local scores, found = redis.call('ZMSCORE', key, unpack(positions)), {}
  for i, position in ipairs(positions) do
    if scores[i] then found[#found + 1] = position end
  end
  return found
end

while at < #ARGV do
  local keys, damage = take_keys()
  if damage then return damage end
  -- the position up to which the sets before this one have been read
  local found = redis.call('ZRANGEBYSCORE', keys[1], '(' .. after, reached, 'LIMIT', 0, most)
  if #found == most then reached, is_whole = found[most], false end
  for _, position in ipairs(found) do
    if not tonumber(position) then return { 'damaged', keys[1], 'a member is no position: ' .. position } end
  end
  for i = 2, #keys do found = common(found, keys[i]) end
  for _, position in ipairs(found) do wanted[position] = true end
end

local positions = {}
for position in pairs(wanted) do
  if tonumber(position) <= tonumber(reached) then positions[#positions + 1] = tonumber(position) end
end
table.sort(positions)

local entries, i = {}, 1
while positions[i] do
  local first = i
  while positions[i + 1] == positions[i] + 1 do i = i + 1 end
  local from, to = string.format('%.0f-0', positions[first]), string.format('%.0f-0', positions[i])
  local found = redis.call('XRANGE', KEYS[1], from, to)
  if #found < i - first + 1 then return { 'damaged', KEYS[1], 'entries from ' .. from .. ' to ' .. to .. ' are missing' } end
  for _, entry in ipairs(found) do entries[#entries + 1] = entry end
  i = i + 1
end
return { 'found', is_whole and '' or reached, entries }
