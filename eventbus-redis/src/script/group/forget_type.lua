-- Forgets that a group announced an event type, in all its versions, or `*` for all types. Entries handed off for a
-- type that the group no longer knows can be reclaimed at once.
-- KEYS  known types, stream   ARGV  group, event type or '*'
-- Replies 1 if it was known.
local known, stream, group = KEYS[1], KEYS[2], ARGV[1]
local found = 0
for _, name in ipairs(redis.call('HKEYS', known)) do
  if name == ARGV[2] or string.match(name, '^(.*)@%d+$') == ARGV[2] then found = found + redis.call('HDEL', known, name) end
end
if not groups_of(stream)[group] then return found > 0 and 1 or 0 end
local knows_all, names = known_types(known)
-- the longest that the server accepts: a claim from before 1970 would count as one from now
local idle = string.format('%.0f', now_in_ms() - 1000)
local from = '-'
while from do
  local pending = redis.call('XPENDING', stream, group, from, '+', 1000, ABSENT)
  from = nil
  for _, entry in ipairs(pending) do
    local id = entry[1]
    local there = redis.call('XRANGE', stream, id, id)[1]
    local name = there and by_name(there[2]).event_type
    if not name or not (knows_all or names[name]) then
      -- a consumer without a heartbeat, used for this alone
      redis.call('XCLAIM', stream, group, ABSENT .. '-given-up', 0, id, 'IDLE', idle, 'JUSTID')
    end
    from = '(' .. id
  end
end
return found > 0 and 1 or 0
