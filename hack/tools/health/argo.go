package main

import (
	"context"
	"fmt"
	"time"

	lua "github.com/yuin/gopher-lua"
)

// The verdict of Argo CD. Of Lua's libraries a script out of argocd-cm has these alone, unless useOpenLibs is set.
func argo(script string, object map[string]any) (verdict, error) {
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for name, open := range map[string]lua.LGFunction{
		lua.LoadLibName: lua.OpenPackage,
		lua.BaseLibName: lua.OpenBase,
		lua.TabLibName:  lua.OpenTable,
	} {
		if err := state.CallByParam(lua.P{Fn: state.NewFunction(open), Protect: true}, lua.LString(name)); err != nil {
			return "", err
		}
	}
	deadline, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	state.SetContext(deadline)
	state.SetGlobal("obj", luaValue(state, object))
	if err := state.DoString(script); err != nil {
		return "", err
	}
	health, isTable := state.Get(-1).(*lua.LTable)
	if !isTable {
		return "", fmt.Errorf("the script returned %s, not a table", state.Get(-1).Type())
	}
	if message := health.RawGetString("message"); message.Type() != lua.LTString {
		return "", fmt.Errorf("the message is %s, not a string", message.Type())
	}
	switch status := health.RawGetString("status").String(); status {
	case "Healthy":
		return serves, nil
	case "Progressing":
		return waits, nil
	case "Degraded":
		return refused, nil
	default:
		return "", fmt.Errorf("the status is %q", status)
	}
}

func luaValue(state *lua.LState, value any) lua.LValue {
	switch value := value.(type) {
	case string:
		return lua.LString(value)
	case int64:
		return lua.LNumber(value)
	case []any:
		table := state.NewTable()
		for _, item := range value {
			table.Append(luaValue(state, item))
		}
		return table
	case map[string]any:
		table := state.NewTable()
		for key, item := range value {
			table.RawSetString(key, luaValue(state, item))
		}
		return table
	default:
		panic(fmt.Sprintf("no situation holds %T", value))
	}
}
