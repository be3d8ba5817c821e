-- Returns the id from which the slowest reader of a stream has entries to finish, the reason why it is no higher, and
-- that reader: a group or a projection.
local function trim_floor(stream, projections, first)
  local floor, reason, holder
  for name, info in pairs(groups_of(stream)) do
    local id, because = floor_of(stream, info, first)
    if not floor or is_before(id, floor) then floor, reason, holder = id, because, name end
  end
  for name, id in pairs(by_name(redis.call('HGETALL', projections))) do
    local next = after(string.match(id, '^%d+%-%d+') or '0-0')
    if not floor or is_before(next, floor) then floor, reason, holder = next, 'projection', name end
  end
  return floor, reason, holder
end
