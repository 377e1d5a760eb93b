#!/usr/bin/env php
<?php
// SPDX-License-Identifier: MPL-2.0
//
// Prints the orders of a Fuuffy account, as the app in main.go does.
//
// Vault Agent (../agent/proxy.hcl) keeps the token in a file. If Fuuffy answers 401, the
// app reports the token through the Agent's socket, and retries once with the token from
// the response.
//
//     php orders.php               print the orders
//     php orders.php -every 60     repeat every 60 seconds
//
// It needs only PHP 8.1 or newer with the openssl extension.

declare(strict_types=1);

// App calls Fuuffy, one request at a time.
final class App
{
    // The token in the file, if Fuuffy rejected it. The app uses the replacement instead,
    // until the Agent writes a new token to the file after ttl.
    private ?string $rejected = null;
    private ?string $replacement = null;

    private function __construct(
        private string $baseURL,
        private string $tokenFile,
        private string $socket,
        private string $mount,
        private ?string $caFile,
    ) {
    }

    public static function fromEnvironment(): self
    {
        $baseURL = getenv('FUUFFY_BASE_URL') ?: 'https://api-gateway.fuuffy.com/v1';
        if (!str_starts_with($baseURL, 'https://')) {
            throw new RuntimeException('FUUFFY_BASE_URL must begin with https://');
        }
        return new self(
            $baseURL,
            getenv('FUUFFY_TOKEN_FILE') ?: '/run/fuuffy/token',
            getenv('FUUFFY_AGENT_SOCKET') ?: '/run/fuuffy/vault.sock',
            getenv('FUUFFY_MOUNT') ?: 'fuuffy',
            getenv('FUUFFY_CA_CERT') ?: null, // For the sandbox, or for your own gateway.
        );
    }

    // get returns Fuuffy's response for the path. After a 401, it retries once with
    // another token.
    public function get(string $path): string
    {
        $token = $this->token();
        [$status, $body] = $this->request($path, $token);
        if ($status === 401) {
            [$status, $body] = $this->request($path, $this->report($token));
        }
        if ($status !== 200) {
            throw new RuntimeException("get $path: Fuuffy answered $status: $body");
        }
        return $body;
    }

    // token reads the file each time. The file is small, in memory, and always current.
    private function token(): string
    {
        $token = trim((string) @file_get_contents($this->tokenFile));
        if (!preg_match('~^[A-Za-z0-9._\~+/-]+=*$~D', $token)) { // The characters that RFC 6750 allows.
            throw new RuntimeException("there is no token in $this->tokenFile");
        }
        return $token === $this->rejected ? $this->replacement : $token;
    }

    private function request(string $path, #[SensitiveParameter] string $token): array
    {
        $context = stream_context_create([
            'http' => [
                'header' => "Authorization: Bearer $token",
                'timeout' => 30,
                'ignore_errors' => true, // Return error responses too.
                'follow_location' => 0, // Don't send the token to another host.
            ],
            'ssl' => $this->caFile === null ? [] : ['cafile' => $this->caFile],
        ]);
        $stream = @fopen($this->baseURL . $path, 'r', false, $context);
        if ($stream === false) {
            throw new RuntimeException("get $path: " . self::lastError());
        }
        $body = (string) stream_get_contents($stream);
        return [self::status(stream_get_meta_data($stream)['wrapper_data'][0]), $body];
    }

    // report tells the engine which token Fuuffy rejected, and returns another. PHP can't
    // send HTTP over Unix sockets, so this writes the request itself. With HTTP/1.0, the
    // response ends when the connection closes.
    private function report(#[SensitiveParameter] string $rejected): string
    {
        $payload = json_encode(['rejected_token' => $rejected]);
        $agent = @stream_socket_client("unix://$this->socket", timeout: 5);
        if ($agent === false) {
            throw new RuntimeException('replace the token that Fuuffy rejected: ' . self::lastError());
        }
        stream_set_timeout($agent, 60);
        fwrite($agent, "POST /v1/$this->mount/token HTTP/1.0\r\nHost: agent\r\nX-Vault-Request: true\r\n" .
            'Content-Length: ' . strlen($payload) . "\r\n\r\n" . $payload);
        [$head, $body] = explode("\r\n\r\n", (string) stream_get_contents($agent), 2) + ['', ''];
        $answer = json_decode($body, true);
        if (self::status($head) !== 200 || !is_string($answer['data']['access_token'] ?? null)) {
            throw new RuntimeException('replace the token that Fuuffy rejected: Vault answered ' . self::status($head) . ": $body");
        }
        if ($rejected !== $this->replacement) {
            $this->rejected = $rejected;
        }
        return $this->replacement = $answer['data']['access_token'];
    }

    // status reads the status line.
    private static function status(string $head): int
    {
        return (int) (explode(' ', $head, 3)[1] ?? 0);
    }

    private static function lastError(): string
    {
        return error_get_last()['message'] ?? 'no connection';
    }
}

$every = ($argv[1] ?? '') === '-every' ? (float) $argv[2] : null;
$app = null;
do {
    try {
        $app ??= App::fromEnvironment();
        echo $app->get('/orders'), "\n";
    } catch (Throwable $error) {
        // A long-running app doesn't exit because one request failed.
        fwrite(STDERR, 'orders.php: ' . $error->getMessage() . "\n");
        if ($every === null) {
            exit(1);
        }
    }
    usleep((int) (1_000_000 * ($every ?? 0)));
} while ($every !== null);
