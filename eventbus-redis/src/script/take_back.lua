-- Takes entries that were left to absent members and that this one handles. That counts as no delivery.
-- KEYS stream, retry, relay   ARGV group, consumer, its types as JSON, the id to begin after, how many entries to look at,
-- how many to take
-- Replies with {the id to go on after, entries, their tries as JSON or false, ids of entries that were deleted, whether
-- there may be more}.
local stream, retry, group, me = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local all, names, versions = announced_types(ARGV[3])
local entries, tries, deleted, last, most = {}, {}, {}, ARGV[4], tonumber(ARGV[6])
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
    -- an event that was left for its version is not for others, also not for those that handle everything
    local version = wanted and string.match(wanted, '^{"left_for":(%d+)')
    local is_mine
    if version then is_mine = name and versions[name .. '@' .. version] else is_mine = all or (name and names[name]) end
    if is_mine then
      redis.call('XCLAIM', stream, group, me, 0, id, 'JUSTID')
      entries[#entries + 1] = entry
      tries[#tries + 1] = wanted
    end
  end
  last = '(' .. id
end
note_removed(stream, KEYS[3], group, deleted)
local is_end = #pending < tonumber(ARGV[5]) and (#pending == 0 or last == '(' .. pending[#pending][1])
return { last, entries, tries, deleted, is_end and 0 or 1 }
