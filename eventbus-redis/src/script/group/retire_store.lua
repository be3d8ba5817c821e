-- Forgets a store that is gone for good: its record, and the events that backlogs need from it, unless it has a live
-- process.
-- KEYS  relay, fills   ARGV  store
-- Replies 'live', 'known' or 'unknown'.

-- Time in which a process that fills backlogs counts as alive (ms).
local FILLER_TIMEOUT = 30000

local relay, fills, store = KEYS[1], KEYS[2], ARGV[1]
local seen = tonumber(redis.call('HGET', fills, 'filler ' .. store) or '0')
if now_in_ms() - seen < FILLER_TIMEOUT then return 'live' end
local removed = redis.call('HDEL', relay, store, 'began:' .. store)
for _, name in ipairs(redis.call('HKEYS', relay)) do
  if string.find(name, 'hole:' .. store .. ':', 1, true) == 1 then redis.call('HDEL', relay, name) end
end
redis.call('HDEL', fills, 'filler ' .. store)
for _, name in ipairs(redis.call('HKEYS', fills)) do
  if string.find(name, 'fill ' .. store .. ' ', 1, true) == 1 then removed = removed + redis.call('HDEL', fills, name) end
end
return removed > 0 and 'known' or 'unknown'
