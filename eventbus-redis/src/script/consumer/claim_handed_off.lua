-- Claims handed-off entries that this consumer handles, which counts as no delivery: those of one page, up to the entry
-- that reaches a number of bytes, with those that it reads and does not claim.
-- KEYS  stream, retry, relay   ARGV  group, consumer, its types as JSON, the id to begin after, number of entries to
--       check, maximum number to claim, maximum number of bytes
-- Replies {the id to continue after, entries, their attempts as JSON or false, ids of deleted entries, 1 if there may
-- be more}.
local stream, retry, group, me = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local all, names, _, newest = announced_types(ARGV[3])
local entries, attempts, deleted, last, most = {}, {}, {}, ARGV[4], tonumber(ARGV[6])
local bytes, most_bytes = 0, tonumber(ARGV[7])
local pending = redis.call('XPENDING', stream, group, ARGV[4], '+', ARGV[5], ABSENT)
for _, found in ipairs(pending) do
  if #entries == most or bytes >= most_bytes then break end
  local id = found[1]
  local entry = redis.call('XRANGE', stream, id, id)[1]
  if not entry then
    redis.call('XACK', stream, group, id)
    redis.call('HDEL', retry, id)
    deleted[#deleted + 1] = id
  else
    bytes = bytes + bytes_of(entry)
    local name = by_name(entry[2]).event_type
    local wanted = redis.call('HGET', retry, id)
    -- an event handed off for its version is only for members with that version or a later one, not for those that
    -- handle all types
    local version = wanted and string.match(wanted, '^{"left_for":(%d+)')
    local is_own
    if version then is_own = name and (newest[name] or 0) >= tonumber(version) else is_own = all or (name and names[name]) end
    if is_own then
      redis.call('XCLAIM', stream, group, me, 0, id, 'JUSTID')
      -- this consumer acknowledges an entry without attempts by a command that deletes no record
      if version then
        wanted = string.gsub(wanted, '^{"left_for":%d+,?', '{')
        if wanted == '{"attempts":0}' then
          redis.call('HDEL', retry, id)
          wanted = false
        else
          redis.call('HSET', retry, id, wanted)
        end
      end
      entries[#entries + 1] = entry
      attempts[#attempts + 1] = wanted
    end
  end
  last = '(' .. id
end
note_removed(stream, KEYS[3], group, deleted)
local is_end = #pending < tonumber(ARGV[5]) and (#pending == 0 or last == '(' .. pending[#pending][1])
return { last, entries, attempts, deleted, is_end and 0 or 1 }
