local function now_in_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Returns a whole number without an exponent.
local function whole(number) return string.format('%.0f', number) end

