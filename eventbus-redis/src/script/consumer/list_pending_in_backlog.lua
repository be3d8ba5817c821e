-- Lists the pending entries of a consumer in the backlog of its group, without those that stay pending because they
-- used up their attempts or wait for other members: those of one page, up to the entry that reaches a number of bytes.
-- KEYS  backlog, its retry records
-- ARGV  group, consumer, the id to begin with, number of entries to check, and of their bytes
-- Replies {the id to continue after or '', {id, aggregate type, aggregate id, tenant or ''} ...}.
local backlog, retry, group = KEYS[1], KEYS[2], ARGV[1]
if not groups_of(backlog)[group] then return { '' } end
local pending = redis.call('XPENDING', backlog, group, ARGV[3], '+', ARGV[4], ARGV[2])
local reply, bytes = { '' }, 0
for i, found in ipairs(pending) do
  if bytes >= tonumber(ARGV[5]) then break end
  local id = found[1]
  local is_last = i == #pending and i < tonumber(ARGV[4])
  reply[1] = is_last and '' or '(' .. id
  local entry = not stays(redis.call('HGET', retry, id)) and redis.call('XRANGE', backlog, id, id)[1]
  if entry then bytes = bytes + bytes_of(entry) end
  local fields = entry and by_name(entry[2])
  if fields and fields.aggregate_type and fields.aggregate_id then
    reply[#reply + 1] = { id, fields.aggregate_type, fields.aggregate_id, fields.tenant_id or '' }
  end
end
return reply
