-- Forgets that a group announced an event type; what waits for a member that handles it may be taken over at once.
-- KEYS known types, stream   ARGV group, event type
-- Replies whether it was known.
local known, stream, group = KEYS[1], KEYS[2], ARGV[1]
local found = 0
for _, name in ipairs(redis.call('HKEYS', known)) do
  if name == ARGV[2] or string.match(name, '^(.*)@%d+$') == ARGV[2] then found = found + redis.call('HDEL', known, name) end
end
if not groups_of(stream)[group] then return found > 0 and 1 or 0 end
local from = '-'
while from do
  local pending = redis.call('XPENDING', stream, group, from, '+', 1000, ABSENT)
  from = nil
  for _, entry in ipairs(pending) do
    local found = redis.call('XRANGE', stream, entry[1], entry[1])[1]
    if not found or by_name(found[2]).event_type == ARGV[2] then
      -- a consumer of no other use, which shows no life
      redis.call('XCLAIM', stream, group, ABSENT .. '-given-up', 0, entry[1], 'IDLE', 4000000000000, 'JUSTID')
    end
    from = '(' .. entry[1]
  end
end
return found > 0 and 1 or 0
