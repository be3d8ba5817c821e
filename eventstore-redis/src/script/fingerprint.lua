-- Returns a hash of the reply of a command that only reads. Redis returns the members of a hash or of a set in an order
-- that changes without a write, also as others read single members: their order does not count.
local MEMBER_LENGTHS = { HGETALL = 2, HKEYS = 1, HVALS = 1, SMEMBERS = 1 }
local function fingerprint(name, reply)
  local length = MEMBER_LENGTHS[string.upper(name)]
  if length and type(reply) == 'table' then
    local members = {}
    for i = 1, #reply, length do members[#members + 1] = cmsgpack.pack(unpack(reply, i, i + length - 1)) end
    table.sort(members)
    reply = members
  end
  return redis.sha1hex(cmsgpack.pack(reply))
end
