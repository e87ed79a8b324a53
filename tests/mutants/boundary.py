"""Defects of the boundary: the ASGI middleware, tokens, problems, log records."""

from __future__ import annotations

from .mutant import Mutant, mutant

ASGI = "tests/integrations/test_asgi.py"
FASTAPI = "tests/integrations/test_fastapi.py"
JWT = "tests/integrations/test_jwt.py"
LOGGING = "tests/integrations/test_logging.py"
MESSAGES = "tests/integrations/test_messages.py"
PROBLEMS = "tests/integrations/test_problems.py"
STARLETTE = "tests/integrations/test_starlette.py"
UVICORN = "tests/integration/test_uvicorn.py"

MUTANTS: list[Mutant] = [
    # --- 2. a request inherits nobody
    mutant(
        "2: an anonymous request opens no scope of its own",
        "integrations/asgi.py",
        "            if not self.required:\n                return nobody(fence=self.fence)\n",
        "            if not self.required:\n"
        "                return _get() or nobody(fence=self.fence)\n",
        f"{ASGI}::test_or_the_request_belongs_to_nobody",
        f"{ASGI}::test_an_open_scope_is_not_inherited",
    ),
    mutant(
        "2: what leaked in passes for this request's own",
        "integrations/asgi.py",
        "        elif _is_beneath(ambient, scope.get(KEY)):",
        "        elif True:",
        f"{ASGI}::test_an_open_scope_is_not_inherited",
    ),
    mutant(
        "2: what leaked in passes for this request's own, on the wire",
        "integrations/asgi.py",
        "        elif _is_beneath(ambient, scope.get(KEY)):",
        "        elif True:",
        f"{UVICORN}::test_everybody_is_who_they_are",
    ),
    mutant(
        "2: what leaked in is not counted",
        "integrations/asgi.py",
        '    counters.count(f"inherited_scope.{state}")\n',
        "",
        f"{ASGI}::test_a_closed_scope_is_not_inherited",
    ),
    mutant(
        "2: open and closed are counted as one",
        "integrations/asgi.py",
        'state = "closed" if ambient._state is CLOSED else "open"',
        'state = "open"',
        f"{ASGI}::test_a_closed_scope_is_not_inherited",
    ),
    mutant(
        "2: every leak warns",
        "integrations/asgi.py",
        "        _has_warned = True\n",
        "",
        f"{ASGI}::test_what_leaks_in_is_said_once",
    ),
    mutant(
        "2: identify sees what leaked in",
        "integrations/asgi.py",
        "            async with nobody(fence=self.fence):\n"
        "                await self._serve(scope, receive, send)",
        "            await self._serve(scope, receive, send)",
        f"{ASGI}::test_an_open_scope_is_not_inherited",
    ),
    mutant(
        "2: a carried scope passes whatever is current",
        "integrations/asgi.py",
        "    while scope is not None and scope is not carried:\n        scope = scope._below\n"
        "    return scope is not None and scope._state is OPEN",
        "    return carried is not None and getattr(carried, '_state', None) is OPEN",
        f"{ASGI}::test_a_carried_scope_does_not_let_a_foreign_one_pass",
    ),
    mutant(
        "2: mounted twice, it asks twice",
        "integrations/asgi.py",
        "            if ambient.has_user or not self.required or self._is_exempt(scope):\n"
        "                await self.app(scope, receive, send)\n"
        "            else:\n"
        "                await self._serve(scope, receive, send)",
        "            await self._serve(scope, receive, send)",
        f"{ASGI}::test_mounted_twice_it_passes",
    ),
    mutant(
        "2: nobody outside is enough where a user is required",
        "integrations/asgi.py",
        "            if ambient.has_user or not self.required or self._is_exempt(scope):",
        "            if True:",
        f"{ASGI}::test_nobody_outside_is_not_enough_where_a_user_is_required",
    ),
    mutant(
        "2: excluded paths are served without a scope",
        "integrations/asgi.py",
        "            return nobody(fence=self.fence)\n        try:",
        "            return _get() or user_context('excluded-1', fence=self.fence)\n        try:",
        f"{ASGI}::test_an_excluded_path_belongs_to_nobody_without_asking",
    ),
    mutant(
        "2: websockets are not bound",
        "integrations/asgi.py",
        'if kind != "http" and kind != "websocket":',
        'if kind != "http":',
        f"{ASGI}::test_a_websocket_is_bound_to_its_user",
        f"{ASGI}::test_a_websocket_inherits_nobody",
    ),
    mutant(
        "2: lifespan is bound",
        "integrations/asgi.py",
        'if kind != "http" and kind != "websocket":',
        'if kind == "other":',
        f"{ASGI}::test_other_protocols_pass_untouched",
    ),
    # --- 8. identity is authenticated
    mutant(
        "8: no identity is let through",
        "integrations/asgi.py",
        "            if not self.required:\n                return nobody(fence=self.fence)\n"
        "            raise _Refusal(_unidentified(), 401, has_credentials=identity is not None)",
        "            return nobody(fence=self.fence)",
        f"{ASGI}::test_without_an_identity_the_answer_is_401",
    ),
    mutant(
        "8: an expired identity is let in",
        "integrations/asgi.py",
        "        if identity is None or (identity.expires_at is not None and identity.is_expired()):",
        "        if identity is None:",
        f"{ASGI}::test_refused_credentials",
    ),
    mutant(
        "8: refused credentials are let through as nobody's",
        "integrations/asgi.py",
        "        if self.required:\n            raise _Refusal(error, 401, has_credentials=True)\n",
        "",
        f"{ASGI}::test_refused_credentials",
    ),
    mutant(
        "8: the client is not told that its token is invalid",
        "integrations/asgi.py",
        "            raise _Refusal(error, 401, has_credentials=True)",
        "            raise _Refusal(error, 401)",
        f"{ASGI}::test_refused_credentials",
    ),
    mutant(
        "8: anything that identify answers is an identity",
        "integrations/asgi.py",
        "    if identity is None or isinstance(identity, Identity):\n        return identity\n",
        "    return identity  # type: ignore[return-value]\n",
        f"{ASGI}::test_identify_answers_with_an_identity",
    ),
    mutant(
        "8: the longest excluded prefix climbs out",
        "integrations/asgi.py",
        "path.startswith(self._prefixes) and not _climbs(path)",
        "path.startswith(self._prefixes)",
        f"{ASGI}::test_excluded_paths",
    ),
    mutant(
        "8: an exact path excludes all that begin with it",
        "integrations/asgi.py",
        'self._prefixes = tuple(path for path in self.exclude if path.endswith("/") and path != "/")',
        "self._prefixes = tuple(self.exclude)",
        f"{ASGI}::test_excluded_paths",
    ),
    mutant(
        "8: excluding the start page excludes everything",
        "integrations/asgi.py",
        'if path.endswith("/") and path != "/")',
        'if path.endswith("/"))',
        f"{ASGI}::test_excluded_paths",
    ),
    mutant(
        "8: root_path is matched by any path that begins alike",
        "integrations/_connection.py",
        'if root and (path == root or path.startswith(f"{root}/")):',
        "if root and path.startswith(root):",
        f"{ASGI}::test_a_mount_point_is_left_out_of_the_path",
    ),
    mutant(
        "8: every OPTIONS request is a preflight",
        "integrations/asgi.py",
        '            if b"origin" in names and b"access-control-request-method" in names:\n',
        "            if names is not None:\n",
        f"{ASGI}::test_preflights_belong_to_nobody",
    ),
    mutant(
        "8: preflights are asked who they are",
        "integrations/asgi.py",
        'if (self.exclude or scope.get("method") == "OPTIONS") and self._is_exempt(scope):',
        "if self.exclude and self._is_exempt(scope):",
        f"{ASGI}::test_preflights_belong_to_nobody",
    ),
    mutant(
        "8: one of two Authorization headers is chosen",
        "integrations/asgi.py",
        '    if names.count(b"authorization") > 1:',
        "    if False:",
        f"{ASGI}::test_headers_are_bounded",
    ),
    mutant(
        "8: one of two client request ids is chosen",
        "integrations/asgi.py",
        "    if names.count(REQUEST_ID) > 1:\n        del first[REQUEST_ID]\n",
        "",
        f"{ASGI}::test_or_dropped",
    ),
    mutant(
        "8: any client request id is kept",
        "integrations/asgi.py",
        "        if not _is_client_id(value):\n            return None\n",
        "",
        f"{ASGI}::test_or_dropped",
    ),
    mutant(
        "8: a client request id that looks odd refuses the request",
        "integrations/asgi.py",
        "        except InvalidContextError:\n            return None\n\n    def _is_exempt",
        "        except KeyError:\n            return None\n\n    def _is_exempt",
        f"{ASGI}::test_or_dropped",
    ),
    mutant(
        "8: of headers that came twice the last counts",
        "integrations/asgi.py",
        "    first = dict(reversed(raw))",
        "    first = dict(raw)",
        f"{ASGI}::test_what_identify_is_shown",
    ),
    mutant(
        "8: headers are not bounded in number",
        "integrations/asgi.py",
        "    elif len(raw) > MAX_HEADERS or len(b",
        "    elif len(b",
        f"{ASGI}::test_headers_are_bounded",
    ),
    mutant(
        "8: headers are not bounded in size",
        "integrations/asgi.py",
        '    elif len(raw) > MAX_HEADERS or len(b"".join(headers.values())) > MAX_HEADER_BYTES:',
        "    elif len(raw) > MAX_HEADERS:",
        f"{ASGI}::test_headers_are_bounded",
    ),
    mutant(
        "8: headers that came twice are not bounded",
        "integrations/asgi.py",
        "    if len(raw) > MAX_HEADERS or sum(len(value) for _, value in raw) > MAX_HEADER_BYTES:\n"
        "        raise _too_large()\n",
        "",
        f"{ASGI}::test_headers_are_bounded",
    ),
    # --- 10. every refusal is visible
    mutant(
        "10: an unidentified request is not counted",
        "integrations/asgi.py",
        'return NoContextError("Nobody is identified.", "Send valid credentials.")',
        "return NoContextError.__new__(NoContextError)",
        f"{ASGI}::test_without_an_identity_the_answer_is_401",
    ),
    mutant(
        "10: while draining, requests are let in under a leaked scope",
        "integrations/asgi.py",
        "            if self.fence.is_draining:\n"
        "                await self._refuse(_Refusal(draining(), 503), scope, receive, send)\n"
        "                return\n",
        "",
        f"{ASGI}::test_while_draining_the_answer_is_503",
    ),
    mutant(
        "10: draining while identifying is no 503",
        "integrations/asgi.py",
        "        if isinstance(error, DrainingError):\n            raise _Refusal(error, 503)\n",
        "",
        f"{ASGI}::test_while_draining_the_answer_is_503",
    ),
    mutant(
        "10: errors of the application are not answered",
        "integrations/asgi.py",
        "        if exchange.is_started or not isinstance(error, RingfenceError):",
        "        if True:",
        f"{ASGI}::test_errors_of_ringfence_become_problems",
    ),
    mutant(
        "10: foreign errors are swallowed",
        "integrations/asgi.py",
        "        if exchange.is_started or not isinstance(error, RingfenceError):",
        "        if exchange.is_started:",
        f"{ASGI}::test_other_errors_pass_untouched",
    ),
    mutant(
        "10: a second response is started",
        "integrations/asgi.py",
        "        if exchange.is_started or not isinstance(error, RingfenceError):",
        "        if not isinstance(error, RingfenceError):",
        f"{ASGI}::test_once_the_response_has_started_every_error_passes",
    ),
    mutant(
        "10: a fault of the application looks like a locked door",
        "integrations/problems.py",
        "    is_fault = has_user and isinstance(error, NoContextError)",
        "    is_fault = False",
        f"{ASGI}::test_no_context_is_401_for_nobody_and_a_fault_for_a_user",
    ),
    mutant(
        "10: an error that was answered is not logged",
        "integrations/problems.py",
        "error.code, exc_info=error)",
        "error.code)",
        f"{ASGI}::test_errors_of_ringfence_become_problems",
    ),
    mutant(
        "10: a problem tells what the error says",
        "integrations/problems.py",
        "        return HTTPStatus(self.status).phrase",
        "        return self.type",
        f"{PROBLEMS}::test_foreign_errors",
        f"{ASGI}::test_errors_of_ringfence_become_problems",
    ),
    mutant(
        "10: problems do not name the request",
        "integrations/problems.py",
        '            headers["x-request-id"] = request_id\n',
        "            pass\n",
        f"{ASGI}::test_without_an_identity_the_answer_is_401",
    ),
    mutant(
        "10: responses do not name the request",
        "integrations/_exchange.py",
        "            message = with_request_id(message, self.root.request_id)\n",
        "",
        f"{ASGI}::test_a_request_is_bound_to_its_user",
    ),
    mutant(
        "10: the application's request id stands beside ours",
        "integrations/_exchange.py",
        "            headers = [pair for pair in headers if pair[0] != REQUEST_ID]\n",
        "",
        f"{ASGI}::test_our_request_id_replaces_the_application_s",
    ),
    mutant(
        "7: a list that many responses share gets one request's id",
        "integrations/_exchange.py",
        '    return {**message, "headers": [*headers, (REQUEST_ID, request_id.encode())]}',
        '    message["headers"] = headers  # type: ignore[index]\n'
        "    headers.append((REQUEST_ID, request_id.encode()))\n"
        "    return message  # type: ignore[return-value]",
        f"{ASGI}::test_our_request_id_replaces_the_application_s",
    ),
    # --- commit_before_response
    mutant(
        "5: the response starts before the commit",
        "integrations/_exchange.py",
        '            if kind == "http.response.start" and self._database is not None:\n'
        '                if not await self._settle(self._database, message["status"]):\n'
        "                    return\n"
        '            elif kind == "websocket.accept":',
        '            if kind == "websocket.accept":',
        f"{ASGI}::test_the_tree_is_settled_before_the_response_starts",
    ),
    mutant(
        "5: the application's answer follows a failed commit",
        "integrations/_exchange.py",
        "        if self.failure is not None:\n            await self._discard(message)\n"
        "            return\n",
        "",
        f"{ASGI}::test_if_that_fails_the_middleware_answers",
    ),
    mutant(
        "5: after a failed commit its start is sent too",
        "integrations/_exchange.py",
        '                if not await self._settle(self._database, message["status"]):\n                    return\n',
        '                await self._settle(self._database, message["status"])\n',
        f"{ASGI}::test_if_that_fails_the_middleware_answers",
    ),
    mutant(
        "5: a failed commit is not counted",
        "integrations/_exchange.py",
        '        counters.count("commit.failed")\n',
        "",
        f"{ASGI}::test_if_that_fails_the_middleware_answers",
    ),
    mutant(
        "5: a failed commit swallows a cancellation",
        "integrations/_exchange.py",
        "        except Exception as error:\n            self.failure = error",
        "        except BaseException as error:\n            self.failure = error  # type: ignore",
        f"{ASGI}::test_a_cancellation_while_settling_stays_one",
    ),
    mutant(
        "5: after a failed commit the scope ends well",
        "integrations/asgi.py",
        "                if exchange.failure is not None:\n"
        "                    raise exchange.failure  # so that the scope has not ended well\n",
        "",
        f"{ASGI}::test_if_that_fails_the_middleware_answers",
    ),
    mutant(
        "5: a failed commit is raised to the server",
        "integrations/asgi.py",
        "return error is exchange.failure or (exchange.is_cut and isinstance(error, Exception))",
        "return False",
        f"{ASGI}::test_if_that_fails_the_middleware_answers",
    ),
    mutant(
        "5: a lost client is raised into send after a failed commit",
        "integrations/_exchange.py",
        "            await self.answer(problem_of(self.failure))\n        except OSError:",
        "            await self.answer(problem_of(self.failure))\n        except KeyError:",
        f"{ASGI}::test_if_the_client_left_too_nothing_is_raised_into_send",
    ),
    mutant(
        "5: a discarded stream stops the event loop",
        "integrations/_exchange.py",
        "        await checkpoint()  # a stream that never waits would stop the event loop\n",
        "",
        f"{ASGI}::test_after_that_a_stream_that_never_waits_does_not_stop_the_loop",
    ),
    mutant(
        "5: a discarded stream never ends",
        "integrations/_exchange.py",
        '        if message.get("more_body") and _hears_of_disconnects_by_oserror(self._scope):',
        "        if False:",
        f"{ASGI}::test_after_that_an_endless_stream_ends",
    ),
    mutant(
        "5: whoever waits for the client is not told that it has its answer",
        "integrations/_exchange.py",
        '        if self.failure is not None:\n            return {"type": "http.disconnect"}\n',
        "",
        f"{ASGI}::test_if_that_fails_the_middleware_answers",
    ),
    mutant(
        "5: a conflict is the server's fault",
        "integrations/problems.py",
        "            status = 409",
        "            status = 500",
        f"{ASGI}::test_if_that_fails_the_middleware_answers",
        PROBLEMS,
    ),
    # --- outcomes
    mutant(
        "outcome: a client that left shows as completed",
        "integrations/_exchange.py",
        '        if message["type"] in _DISCONNECTS and message.get("code") not in _GOODBYES:\n'
        "            self.is_gone = self.is_gone or not self._is_complete\n",
        "",
        f"{ASGI}::test_how_a_request_ended",
    ),
    mutant(
        "outcome: whoever has the whole response has left early",
        "integrations/_exchange.py",
        "            self.is_gone = self.is_gone or not self._is_complete\n",
        "            self.is_gone = True\n",
        f"{ASGI}::test_how_a_request_ended",
    ),
    mutant(
        "outcome: a send that fails is not noticed",
        "integrations/_exchange.py",
        "        except OSError:\n            self.is_gone = True\n            raise\n",
        "        except OSError:\n            raise\n",
        f"{ASGI}::test_a_client_that_left_may_show_in_send_alone",
    ),
    mutant(
        "outcome: a cancellation is an error",
        "integrations/_exchange.py",
        'return "error" if isinstance(error, Exception) else "cancelled"',
        'return "error"',
        f"{ASGI}::test_a_cancelled_request",
    ),
    # --- WebSockets
    mutant(
        "websocket: a refusal is accepted where it can be denied",
        "integrations/_exchange.py",
        '    elif "websocket.http.response" in (scope.get("extensions") or ()):',
        "    elif False:",
        f"{ASGI}::test_a_websocket_is_refused_before_it_is_accepted",
    ),
    mutant(
        "websocket: a refusal closes as if all were well",
        "integrations/_exchange.py",
        "        code = CLOSE_CODES.get(problem.status, 1008)",
        "        code = 1000",
        f"{ASGI}::test_or_accepted_and_closed_where_the_server_cannot_say_why",
    ),
    mutant(
        "websocket: no subprotocol is chosen, and browsers hang up",
        "integrations/_exchange.py",
        '        return {**message, "subprotocol": BEARER_SUBPROTOCOL}',
        "        return message",
        f"{ASGI}::test_browsers_need_a_subprotocol_of_those_they_offered",
    ),
    # --- tokens
    mutant(
        "8: a token for somebody else is taken",
        "integrations/jwt.py",
        '            if "aud" in claims and not self._accepts_audience:\n'
        '                raise _refused("UnexpectedAudience")\n',
        "",
        f"{JWT}::test_bad_tokens_are_refused_with_one_message",
    ),
    mutant(
        "8: any audience will do",
        "integrations/jwt.py",
        'rules["aud"] = {"essential": True, "values": values}',
        'rules["aud"] = {"essential": True}',
        f"{JWT}::test_issuer_and_audience",
    ),
    mutant(
        "8: a token without an audience is taken",
        "integrations/jwt.py",
        'rules["aud"] = {"essential": True, "values": values}',
        'rules["aud"] = {"values": values}',
        f"{JWT}::test_issuer_and_audience",
    ),
    mutant(
        "8: any issuer will do",
        "integrations/jwt.py",
        'rules["iss"] = {"essential": True, "value": issuer}',
        'rules["iss"] = {"essential": True}',
        f"{JWT}::test_issuer_and_audience",
    ),
    mutant(
        "8: a token may last for ever",
        "integrations/jwt.py",
        'rules: dict[str, Any] = {"exp": {"essential": requires_expiry}}',
        "rules: dict[str, Any] = {}",
        f"{JWT}::test_bad_tokens_are_refused_with_one_message",
    ),
    mutant(
        "8: claims are not judged",
        "integrations/jwt.py",
        "            self._rules.validate(claims)\n",
        "",
        f"{JWT}::test_bad_tokens_are_refused_with_one_message",
    ),
    mutant(
        "8: a token chooses its algorithm",
        "integrations/jwt.py",
        "JWSRegistry(algorithms=self.algorithms, strict_check_header=False)",
        "JWSRegistry(algorithms=tuple(JWSRegistry.algorithms), strict_check_header=False)",
        f"{JWT}::test_bad_tokens_are_refused_with_one_message",
    ),
    mutant(
        "8: a token of any size is parsed",
        "integrations/jwt.py",
        '        if len(token) > MAX_TOKEN:\n            raise _refused("TooLarge")\n',
        "",
        f"{JWT}::test_bad_tokens_are_refused_with_one_message",
    ),
    mutant(
        "8: a token that breaks the parser is an error of the server",
        "integrations/jwt.py",
        "        except Exception as error:  # whatever a hostile token makes a parser raise",
        "        except ValueError as error:",
        f"{JWT}::test_bad_tokens_are_refused_with_one_message",
    ),
    mutant(
        "8: ids need not be text",
        "integrations/jwt.py",
        "        if type(user_id) is not str or not (tenant_id is None or type(tenant_id) is str):",
        "        if False:",
        f"{JWT}::test_bad_tokens_are_refused_with_one_message",
    ),
    mutant(
        "8: leeway is forgotten once the token was judged",
        "integrations/jwt.py",
        'end = claims["exp"] + self._leeway',
        'end = claims["exp"]',
        f"{JWT}::test_leeway",
    ),
    mutant(
        "8: the expiry does not reach the identity",
        "integrations/jwt.py",
        "Identity(user_id, tenant_id, expires_at=expires_at, claims=claims)",
        "Identity(user_id, tenant_id, claims=claims)",
        f"{JWT}::test_a_good_token",
    ),
    mutant(
        "8: a short secret will do",
        "integrations/jwt.py",
        "    if len(secret) < MIN_SECRET:\n        raise _short_secret()\n",
        "",
        f"{JWT}::test_short_secrets",
    ),
    mutant(
        "8: a short secret will do, as a key",
        "integrations/jwt.py",
        "        if isinstance(each, OctKey) and len(each.raw_value) < MIN_SECRET:\n"
        "            raise _short_secret()\n",
        "",
        f"{JWT}::test_short_secrets",
    ),
    mutant(
        "8: a public key passes for a secret",
        "integrations/jwt.py",
        '        if any(name.startswith("HS") is not is_secret for name in algorithms):',
        "        if False:",
        f"{JWT}::test_algorithms_that_do_not_fit_the_key",
    ),
    mutant(
        "8: the algorithm none may be allowed",
        "integrations/jwt.py",
        'if name == "none" or name not in JWSRegistry.algorithms]',
        "if name not in JWSRegistry.algorithms]",
        f"{JWT}::test_algorithms_that_sign_nothing",
    ),
    mutant(
        "8: another scheme's credentials are a token",
        "integrations/jwt.py",
        '    if scheme.lower() != "bearer":\n        return None\n',
        "",
        f"{JWT}::test_other_credentials",
    ),
    mutant(
        "8: http requests bring subprotocols too",
        "integrations/jwt.py",
        'if scope["type"] != "websocket" or BEARER_SUBPROTOCOL not in offered:',
        "if BEARER_SUBPROTOCOL not in offered:",
        f"{JWT}::test_never_the_query_string_nor_a_cookie",
    ),
    # --- log records
    mutant(
        "3: a record of ended work is not marked",
        "integrations/logging.py",
        "    facts[STATE] = scope.state\n",
        '    facts[STATE] = "open"\n',
        f"{LOGGING}::test_what_outlived_its_scope_is_marked",
    ),
    mutant(
        "10: a log call fails for its decoration",
        "integrations/logging.py",
        "    except Exception:  # noqa: S110 - a log call must not fail for what it is decorated with",
        "    except KeyError:",
        f"{LOGGING}::test_it_never_raises",
    ),
    mutant(
        "10: the names of a call are overwritten",
        "integrations/logging.py",
        "            if not hasattr(record, name):",
        "            if True:",
        f"{LOGGING}::test_names_given_by_a_call_are_kept",
        f"{LOGGING}::test_a_queue_s_listener_does_not_overwrite",
    ),
    # --- Starlette
    mutant(
        "10: Starlette's handlers do not answer",
        "integrations/starlette.py",
        "exception_handlers: dict[Any, Any] = {RingfenceError: answer_error}",
        "exception_handlers: dict[Any, Any] = {}",
        STARLETTE,
    ),
    mutant(
        "10: Starlette's handlers do not close websockets",
        "integrations/starlette.py",
        "            await connection.close(code, problem.title)\n",
        "            pass\n",
        STARLETTE,
    ),
    # --- messages, FastAPI, AuthenticationMiddleware
    mutant(
        "2: all messages of a WebSocket share the connection's scope",
        "integrations/_messages.py",
        '            async with child_context("message"):\n                await handle(',
        "            if True:\n                await handle(",
        f"{MESSAGES}::test_each_message_has_a_child_scope_of_its_own",
        f"{MESSAGES}::test_each_message_has_a_fresh_session_that_is_committed_when_it_ends",
    ),
    mutant(
        "8: an identity that expires in a WebSocket goes on",
        "integrations/_messages.py",
        "    if expires_at is None:\n",
        "    if True:\n",
        f"{MESSAGES}::test_an_expired_identity_is_asked_at_each_message",
        f"{MESSAGES}::test_an_idle_connection_is_closed_when_the_identity_expires",
    ),
    mutant(
        "8: a message that comes at the last moment is handled",
        "integrations/_messages.py",
        "        return None if _seconds_until(expires_at) <= 0 else message\n",
        "        return message\n",
        f"{MESSAGES}::test_a_message_that_comes_as_the_identity_expires_is_not_handled",
    ),
    mutant(
        "10: a message of a client that left is committed",
        "integrations/_messages.py",
        '                await handle(message["bytes"] if content is None else content)\n',
        "                try:\n"
        '                    await handle(message["bytes"] if content is None else content)\n'
        "                except WebSocketDisconnect:\n"
        "                    return\n",
        f"{MESSAGES}::test_a_client_that_left_while_it_was_answered_is_no_error",
    ),
    mutant(
        "9: without a middleware the optional context is None",
        "integrations/fastapi.py",
        '    scope = current_scope()  # that there is no middleware is no reason to say "nobody"\n'
        "    return scope.context if scope.has_user else None\n",
        "    from ..current import current_context_or_none\n\n"
        "    return current_context_or_none()\n",
        f"{FASTAPI}::test_without_a_middleware_nobody_is_assumed",
    ),
    mutant(
        "4: a sync route takes a session into a thread",
        "integrations/fastapi.py",
        "    if dependant is not None and _hands_session_to_thread(dependant):\n",
        "    if False:\n",
        f"{FASTAPI}::test_a_sync_route_may_not_ask_for_a_session",
    ),
    mutant(
        "4: a sync route takes a session into a thread, in an object",
        "integrations/fastapi.py",
        "(part.call is scoped_session or _hands_session_to_thread(part))",
        "part.call is scoped_session",
        f"{FASTAPI}::test_a_sync_route_may_not_ask_for_a_session",
    ),
    mutant(
        "8: a role is found inside another",
        "integrations/fastapi.py",
        "        return tuple(value.split())\n",
        "        return value  # type: ignore\n",
        f"{FASTAPI}::test_rules",
    ),
    mutant(
        "8: whatever is truthy passes",
        "integrations/fastapi.py",
        "            if answer is not True:\n",
        "            if not answer:\n",
        f"{FASTAPI}::test_rules",
    ),
    mutant(
        "8: one rule of several is enough",
        "integrations/fastapi.py",
        "            if answer is not True:\n                raise",
        "            if answer is True:\n                return\n"
        "            if rule is rules[-1]:\n                raise",
        f"{FASTAPI}::test_rules",
    ),
    mutant(
        "8: a method `is_authenticated` lets everybody in",
        "integrations/starlette.py",
        "if user.is_authenticated is not True:",
        "if not user.is_authenticated:",
        f"{STARLETTE}::test_who_is_not_authenticated_is_nobody",
    ),
    mutant(
        "3: the scope ends when the response starts",
        "integrations/asgi.py",
        "        exchange = Exchange(block, self.fence.database, scope, receive, send)\n",
        "        async def ending(message: Any, send: Send = send) -> None:\n"
        "            await send(message)\n"
        "            block._end(None, 0)\n\n"
        "        exchange = Exchange(block, self.fence.database, scope, receive, ending)\n",
        f"{FASTAPI}::test_the_scope_covers_the_body_to_its_end",
    ),
]
