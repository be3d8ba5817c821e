-- Lists the events that backlogs need from a store, and records that the store has a live process.
-- KEYS  fills   ARGV  store
-- Replies {group, event type or '', the position before the first, the last position} ...
local found = {}
for name, value in pairs(by_name(redis.call('HGETALL', KEYS[1]))) do
  local store, group, event_type = string.match(name, '^fill (%S+) ([^\n]*)\n(.*)$')
  local at, through = string.match(value, '^(%S+) (%S+)$')
  if store == ARGV[1] and at then found[#found + 1] = { group, event_type, at, through } end
end
if #found > 0 then redis.call('HSET', KEYS[1], 'filler ' .. ARGV[1], string.format('%.0f', now_in_ms())) end
return found
