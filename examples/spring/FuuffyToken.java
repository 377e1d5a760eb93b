// SPDX-License-Identifier: MPL-2.0

import java.time.Instant;
import java.util.Map;
import org.springframework.stereotype.Component;
import org.springframework.vault.core.VaultOperations;

/**
 * The Fuuffy access token. Send {@link #get()} with each request. If Fuuffy answers 401,
 * retry once with {@link #replace}.
 */
@Component
public class FuuffyToken {
    private static final String PATH = "fuuffy/token";

    private final VaultOperations vault;
    private String token;
    private Instant expiresAt;
    private Instant readAgainAt;

    public FuuffyToken(VaultOperations vault) {
        this.vault = vault;
    }

    /** Returns the token from memory, and reads a newer one after ttl. If Vault is down, keeps it until it expires. */
    public synchronized String get() {
        Instant now = Instant.now();
        if (token != null && now.isBefore(readAgainAt)) {
            return token;
        }
        try {
            keep(vault.read(PATH).getRequiredData());
        } catch (RuntimeException e) {
            if (token == null || !now.isBefore(expiresAt)) {
                throw e;
            }
            readAgainAt = now.plusSeconds(15);
        }
        return token;
    }

    /** Reports a token that got a 401, and returns the token to use instead. Many threads may report the same one. */
    public synchronized String replace(String rejected) {
        if (token == null || token.equals(rejected)) {
            keep(vault.write(PATH, Map.of("rejected_token", rejected)).getRequiredData());
        }
        return token;
    }

    private void keep(Map<String, Object> data) {
        token = (String) data.get("access_token");
        long ttl = ((Number) data.get("ttl")).longValue();
        expiresAt = Instant.parse((String) data.get("expires_at"));
        readAgainAt = Instant.now().plusSeconds(ttl + 1);
    }
}
