(s.expires_at <= clock_timestamp() OR s.renewed_at > clock_timestamp())
