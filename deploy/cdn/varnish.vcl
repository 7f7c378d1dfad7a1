# Varnish in front of the edge store: one origin request however many readers ask, and stale figures while the origin is down.
# Set `origin` to the address of the store.
vcl 4.1;

import std;

backend origin {
  .host = "127.0.0.1";
  .port = "9000";
  .probe = {
    .url = "/v1/default/manifest.json";
    .interval = 5s;
    .timeout = 2s;
    .window = 3;
    .threshold = 2;
    .initial = 2;
  }
}

sub vcl_recv {
  if (req.method != "GET" && req.method != "HEAD") {
    return (synth(405));
  }
  set req.url = regsub(req.url, "\?.*$", "");
  # Only paths that the publisher writes. No reader can make the store answer something else that the cache keeps for everybody.
  if (req.url !~ "^/v1(/[A-Za-z0-9_=-][A-Za-z0-9_.=-]*)+/?$") {
    return (synth(404));
  }
  # The host is part of the cache's key, so there is only one.
  set req.http.Host = "edge";
  unset req.http.Authorization;
  unset req.http.Cookie;
  unset req.http.X-Amz-Content-Sha256;
  unset req.http.X-Amz-Date;
  unset req.http.X-Amz-Expected-Bucket-Owner;
  unset req.http.X-Amz-Request-Payer;
  unset req.http.X-Amz-Security-Token;
  unset req.http.X-Forwarded-Host;
  unset req.http.X-HTTP-Method;
  unset req.http.X-HTTP-Method-Override;
  unset req.http.X-Method-Override;
  unset req.http.X-Original-URL;
  unset req.http.X-Rewrite-URL;
  # The page's links end in a slash, but S3 needs the object's name.
  set req.url = regsub(req.url, "^(/v1/[^/]+/)$", "\1index.html");
  # While the origin is healthy, no reader receives figures staler than stale-while-revalidate allows.
  if (std.healthy(req.backend_hint)) {
    set req.grace = 600s;
  }
}

sub vcl_backend_fetch {
  # The store receives the name of the backend.
  unset bereq.http.Host;
}

sub vcl_backend_response {
  unset beresp.http.Set-Cookie;
  # stale-if-error of the manifest; data files never become stale.
  set beresp.grace = 24h;
  # Keep expired objects, to revalidate them with the origin.
  set beresp.keep = 24h;
  # An error of the origin must not replace figures that may still be served stale.
  if (beresp.status >= 500 && bereq.is_bgfetch) {
    return (abandon);
  }
  # Parquet is already compressed; compressing it again loses Content-Length, which readers of ranges need.
  if (beresp.http.Content-Type ~ "^(application/json|text/)") {
    set beresp.do_gzip = true;
  }
}

sub vcl_deliver {
  if (obj.hits > 0) {
    set resp.http.Cache-Status = "edge; hit; ttl=" + obj.ttl;
  } else {
    set resp.http.Cache-Status = "edge; fwd=miss";
  }
  if (resp.http.Content-Type ~ "^text/html") {
    set resp.http.Content-Security-Policy = "default-src 'none'; script-src 'self' 'sha256-Baw/1o0n2smHlw9mXEsM0CHYvnYIZuYdMsj+ILIJfh0='; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
  }
  set resp.http.X-Content-Type-Options = "nosniff";
  set resp.http.Access-Control-Allow-Origin = "*";
  set resp.http.Access-Control-Expose-Headers = "ETag, Content-Range, Accept-Ranges, Content-Length";
  unset resp.http.X-Varnish;
  unset resp.http.Via;
}
