-- Adds entries to partitions. The ids of entries increase across all partitions, so that no two are equal, and those of
-- one call have the order of the call. The last key is the layout, the last argument its generation.

local layout, generation = table.remove(KEYS), table.remove(ARGV)
local now = string.format('%.0f', now_in_ms())
local newest
do
  local recorded = redis.call('HMGET', layout, 'generation', 'newest', 'closed_until', 'partitions')
  if not recorded[1] or is_smaller(recorded[1], generation) then return redis.error_reply('NOLAYOUT no layout recorded') end
  if recorded[1] ~= generation then return redis.error_reply('LAYOUT ' .. recorded[4] .. ' partitions') end
  if recorded[3] and is_smaller(now, recorded[3]) then return redis.error_reply('CLOSED the partitions are being changed') end
  newest = recorded[2]
end

local function next_id()
  local ms, seq = parts(newest)
  if is_smaller(ms, now) then newest = now .. '-0' else newest = ms .. '-' .. plus_one(seq) end
  return newest
end

-- Returns the id, or an error.
local function try_to_add(stream, ...)
  local id = redis.pcall('XADD', stream, next_id(), ...)
  if not id.err then return id end
  -- the stream may be ahead of a layout that was lost and recorded again
  local last = newest_of(stream)
  if is_before(newest, last) then newest = last end
  return redis.pcall('XADD', stream, next_id(), ...)
end

local function add(stream, ...)
  local id = try_to_add(stream, ...)
  if id.err then return redis.call('XADD', stream, next_id(), ...) end
  return id
end

local function remember() redis.call('HSET', layout, 'newest', newest) end

