-- Forgets that a group announced an event type, in all its versions, or `*` for all types. Entries handed off for a
-- type that the group no longer knows can be reclaimed at once: this call goes through some of the handed-off entries, as
-- there may be a million of them.
-- KEYS  known types, stream, relay
-- ARGV  group, event type or '*', the start of the handed-off entries to go through, '-' for all, number of their bytes
-- Replies {1 if it was known, the start for the next call or '' if all are done}.

-- Number of entries that one call goes through; it reads their fields.
local ENTRIES_MAX = 200

local known, stream, group, from = KEYS[1], KEYS[2], ARGV[1], ARGV[3]
local found = 0
for _, name in ipairs(redis.call('HKEYS', known)) do
  if name == ARGV[2] or string.match(name, '^(.*)@%d+$') == ARGV[2] then found = found + redis.call('HDEL', known, name) end
end
local was_known = found > 0 and 1 or 0
if not groups_of(stream)[group] then return { was_known, '' } end
local knows_all, names = known_types(known)
-- the longest that the server accepts: a claim from before 1970 would count as one from now
local idle = string.format('%.0f', now_in_ms() - 1000)
local pending = redis.call('XPENDING', stream, group, from, '+', ENTRIES_MAX, ABSENT)
local next, bytes = '', 0
for i, entry in ipairs(pending) do
  if bytes >= tonumber(ARGV[4]) then break end
  local id = entry[1]
  local is_last = i == #pending and i < ENTRIES_MAX
  next = is_last and '' or '(' .. id
  local there = redis.call('XRANGE', stream, id, id)[1]
  if there then bytes = bytes + bytes_of(there) end
  local name = there and by_name(there[2]).event_type
  if not name or not (knows_all or names[name]) then
    -- a consumer without a heartbeat, used for this alone
    claim(stream, group, ABSENT .. '-given-up', { id }, { 'IDLE', idle }, KEYS[3])
  end
end
return { was_known, next }
