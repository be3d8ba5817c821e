-- Claims handed-off entries that this consumer handles, which counts as no delivery.
-- KEYS  stream, retry, relay   ARGV  group, consumer, its types as JSON, the id to begin after, number of entries to
--       check, maximum number to claim
-- Replies {the id to continue after, entries, their attempts as JSON or false, ids of deleted entries, 1 if there may
-- be more}.
local stream, retry, group, me = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local all, names, _, newest = announced_types(ARGV[3])
local entries, attempts, deleted, last, most = {}, {}, {}, ARGV[4], tonumber(ARGV[6])
local pending = redis.call('XPENDING', stream, group, ARGV[4], '+', ARGV[5], ABSENT)
for _, found in ipairs(pending) do
  if #entries == most then break end
  local id = found[1]
  local entry = redis.call('XRANGE', stream, id, id)[1]
  if not entry then
    redis.call('XACK', stream, group, id)
    redis.call('HDEL', retry, id)
    deleted[#deleted + 1] = id
  else
    local name = by_name(entry[2]).event_type
    local wanted = redis.call('HGET', retry, id)
    -- an event handed off for its version is only for members with that version or a later one, not for those that
    -- handle all types
    local version = wanted and string.match(wanted, '^{"left_for":(%d+)')
    local is_own
    if version then is_own = name and (newest[name] or 0) >= tonumber(version) else is_own = all or (name and names[name]) end
    if is_own then
      redis.call('XCLAIM', stream, group, me, 0, id, 'JUSTID')
      entries[#entries + 1] = entry
      attempts[#attempts + 1] = wanted
    end
  end
  last = '(' .. id
end
note_removed(stream, KEYS[3], group, deleted)
local is_end = #pending < tonumber(ARGV[5]) and (#pending == 0 or last == '(' .. pending[#pending][1])
return { last, entries, attempts, deleted, is_end and 0 or 1 }
