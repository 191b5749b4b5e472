"""The chat format as a Jinja template (paper 4.1.1), for transformers, vLLM and llama.cpp; tests hold it equal to `dialog.py`.

It is written once, into `tokenizer_config.json`. Its variables are `messages`, `add_generation_prompt` and those of `Preamble`.
"""

import json

from openherd.tokenizer.special import END_HEADER, END_OF_MESSAGE, END_OF_TURN, IMAGE, PYTHON_TAG, START_HEADER
from openherd.tokenizer.tools import CODE, INSTRUCTIONS

LITERAL = """
{%- macro literal(value) -%}
    {%- if value is none or value is true or value is false -%}
        {{- value | string -}}
    {%- elif value is mapping -%}
        {{- '{' -}}
        {%- for key in value -%}
            {{- literal(key) + ': ' + literal(value[key]) + ('' if loop.last else ', ') -}}
        {%- endfor -%}
        {{- '}' -}}
    {%- elif value is iterable and value is not string -%}
        {{- '[' -}}
        {%- for item in value -%}
            {{- literal(item) + ('' if loop.last else ', ') -}}
        {%- endfor -%}
        {{- ']' -}}
    {%- else -%}
        {{- value | tojson -}}
    {%- endif -%}
{%- endmacro -%}
{%- macro keywords(arguments) -%}
    {%- for name in arguments -%}
        {{- name + '=' + literal(arguments[name]) + ('' if loop.last else ', ') -}}
    {%- endfor -%}
{%- endmacro -%}
"""

CONTENT = f"""
{{%- macro text_of(content) -%}}
    {{%- if content is string -%}}
        {{{{- content -}}}}
    {{%- elif content is mapping -%}}
        {{{{- content | tojson -}}}}
    {{%- elif content -%}}
        {{%- for part in content -%}}
            {{%- if part.type == 'text' -%}}
                {{{{- part.text -}}}}
            {{%- elif part.type == 'image' -%}}
                {{{{- '{IMAGE}' -}}}}
            {{%- else -%}}
                {{{{- raise_exception('a part that is neither text nor image') -}}}}
            {{%- endif -%}}
        {{%- endfor -%}}
    {{%- endif -%}}
{{%- endmacro -%}}
"""

PREAMBLE = f"""
{{%- set tools = tools if tools is defined and tools else [] -%}}
{{%- set tool_format = tool_format if tool_format is defined else 'json' -%}}
{{%- set in_user = tools_in_user_message if tools_in_user_message is defined else true -%}}
{{%- set environment = builtin_tools is defined and builtin_tools is not none -%}}
{{%- set builtin = (builtin_tools | list) + ['{CODE}'] if environment else [] -%}}
{{%- set words = {{'json': {json.dumps(INSTRUCTIONS["json"])}, 'function': {json.dumps(INSTRUCTIONS["function"])},
    'python': {json.dumps(INSTRUCTIONS["python"])}}} -%}}
{{%- set ns = namespace(defined='', lines=[], named=[], first=true) -%}}
{{%- if tools -%}}
    {{%- set ns.defined = tool_instructions if tool_instructions is defined and tool_instructions else words[tool_format] -%}}
    {{%- for tool in tools -%}}
        {{%- set ns.defined = ns.defined + '\\n\\n' + (tool | tojson(indent=4)) -%}}
    {{%- endfor -%}}
{{%- endif -%}}
{{%- if environment -%}}
    {{%- for name in builtin_tools if name != '{CODE}' -%}}
        {{%- set ns.named = ns.named + [name] -%}}
    {{%- endfor -%}}
    {{%- set ns.lines = ['Environment: ipython' + ('\\nTools: ' + ns.named | join(', ') if ns.named else '')] -%}}
{{%- endif -%}}
{{%- set cutting = 'Cutting Knowledge Date: ' + knowledge_date if knowledge_date is defined and knowledge_date else '' -%}}
{{%- set today = 'Today Date: ' + date_string if date_string is defined and date_string else '' -%}}
{{%- if cutting or today -%}}
    {{%- set ns.lines = ns.lines + [cutting + ('\\n' if cutting and today else '') + today] -%}}
{{%- endif -%}}
{{%- if ns.defined and not in_user -%}}
    {{%- set ns.lines = ns.lines + [ns.defined] -%}}
{{%- endif -%}}
{{%- set system_lines = ns.lines | join('\\n\\n') -%}}
{{%- if system_lines and (not messages or messages[0].role != 'system') -%}}
    {{{{- '{START_HEADER}system{END_HEADER}\\n\\n' + system_lines + '{END_OF_TURN}' -}}}}
{{%- endif -%}}
"""

CALLS = f"""
{{%- macro called(calls, said) -%}}
    {{%- set function = calls[0].function -%}}
    {{%- if tool_format != 'python' and calls | length > 1 or function.name in builtin and calls | length > 1 -%}}
        {{{{- raise_exception('several calls in one message: only in the format python') -}}}}
    {{%- elif function.name in builtin -%}}
        {{{{- '{PYTHON_TAG}' -}}}}
        {{%- if function.name == '{CODE}' -%}}
            {{{{- function.arguments.code -}}}}
        {{%- else -%}}
            {{{{- function.name + '.call(' + keywords(function.arguments) + ')' -}}}}
        {{%- endif -%}}
        {{{{- '{END_OF_MESSAGE}' -}}}}
    {{%- elif tool_format == 'python' -%}}
        {{%- if said -%}}
            {{{{- raise_exception('words beside calls in the format python') -}}}}
        {{%- endif -%}}
        {{{{- '[' -}}}}
        {{%- for one in calls -%}}
            {{{{- one.function.name + '(' + keywords(one.function.arguments) + ')' + ('' if loop.last else ', ') -}}}}
        {{%- endfor -%}}
        {{{{- ']{END_OF_TURN}' -}}}}
    {{%- elif tool_format == 'function' -%}}
        {{{{- '<function=' + function.name + '>' + (function.arguments | tojson) + '</function>{END_OF_TURN}' -}}}}
    {{%- else -%}}
        {{{{- '{PYTHON_TAG}{{"type": "function", "name": ' + (function.name | tojson) + ', "parameters": ' -}}}}
        {{{{- (function.arguments | tojson) + '}}' + ('{END_OF_MESSAGE}' if environment else '{END_OF_TURN}') -}}}}
    {{%- endif -%}}
{{%- endmacro -%}}
"""

MESSAGES = f"""
{{%- for message in messages -%}}
    {{%- set role = 'ipython' if message.role == 'tool' else message.role -%}}
    {{%- set said = text_of(message.content) | trim -%}}
    {{%- set before = '' -%}}
    {{%- if role == 'system' and loop.first -%}}
        {{%- set before = system_lines -%}}
    {{%- elif role == 'user' and ns.first -%}}
        {{%- set ns.first = false -%}}
        {{%- set before = ns.defined if in_user else '' -%}}
    {{%- endif -%}}
    {{{{- '{START_HEADER}' + role + '{END_HEADER}\\n\\n' + before + ('\\n\\n' if before and said else '') + said -}}}}
    {{%- if role == 'assistant' and message.tool_calls -%}}
        {{{{- called(message.tool_calls, said) -}}}}
    {{%- else -%}}
        {{{{- '{END_OF_TURN}' -}}}}
    {{%- endif -%}}
{{%- endfor -%}}
{{%- if ns.defined and in_user and ns.first -%}}
    {{{{- raise_exception('tools without a message of the user to put them in') -}}}}
{{%- endif -%}}
{{%- if add_generation_prompt -%}}
    {{{{- '{START_HEADER}assistant{END_HEADER}\\n\\n' -}}}}
{{%- endif -%}}
"""

CHAT_TEMPLATE = "{{- bos_token -}}" + "".join(part.strip() for part in (LITERAL, CONTENT, PREAMBLE, CALLS, MESSAGES))
